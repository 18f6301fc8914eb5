# make demo   installs, and trains the aligner of a small Qwen3-VL for a camera new to it
# make test   installs where needed, and runs every check; make test-long more of the slow ones
# make test-wheel   installs the package's wheel into an empty environment, and tries it there
# make test-gpu   trains in every way on two GPUs
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
RUN := $(DEMO)/runs/$(shell date +%Y%m%d-%H%M%S)

.PHONY: install lock demo needs test test-long test-gpu test-wheel lint docs site canary clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml requirements.lock src/swiftalign/augment/_pixels.c
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "swiftalign needs Python 3.11 or newer"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	# DeepSpeed's C++ parts are built when they are used.
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet --require-hashes --no-deps --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Resolves requirements.lock again: `make lock UPGRADE="--upgrade-package peft"`.
lock:
	test -x $(VENV)/uv/bin/uv || { $(PYTHON) -m venv $(VENV)/uv && $(VENV)/uv/bin/python -m pip install --quiet uv; }
	$(VENV)/uv/bin/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-header --annotation-style line $(UPGRADE) --quiet --output-file requirements.lock

demo: install
	@set -e; for command in \
		"init --demo $(DEMO) --force" \
		"inspect-params $(DEMO)/config.yaml" \
		"preview-aug $(DEMO)/config.yaml --set custom.augmentation.preset=conservative --output $(DEMO)/augmented.png --force" \
		"train $(DEMO)/config.yaml --set training.output_dir=$(RUN)" \
		"verify-ckpt $(RUN) --deep --base $(DEMO)/model" \
		"export $(RUN) --output $(DEMO)/model-tuned --force --check-logits"; \
	do echo; echo "\$$ swiftalign $$command"; $(BIN)/swiftalign $$command; done
	@echo; echo "What that brought back:"
	@$(BIN)/python -m swiftalign.demo.recovery $(DEMO) $(DEMO)/model-tuned --picture $(DEMO)/recovery.jpg
	@echo; echo "All of it lies in $(DEMO)/: the model, its data, config.yaml, and the runs."

# Two processes, each on one thread: training the tiny model gains nothing from more. The files go in the order of
# tests/conftest.py, the longest first.
test: needs lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Further methods, signals and numbers of processes of what `make test` shows in a shorter form.
test-long: test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m long

# The wheel in an empty environment, and the session of docs/start.md in it. What was tried is in dist/, to be published.
test-wheel: install
	rm -rf dist
	SWIFTALIGN_DIST=$(CURDIR)/dist $(BIN)/python -m pytest tests/test_wheel.py -m wheel

# Every way of spreading a run over two GPUs, many runs at the same time: about eight minutes on 32 cores.
test-gpu: install
	$(BIN)/python -m pytest tests/gpu -m gpu

# docs/ as a site in site/; `python -m http.server --directory site` shows it.
site: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# What newer releases of peft, transformers and ms-swift would break: make canary CANARY="--package peft==0.21.2"
canary: install
	$(BIN)/python tools/canary $(CANARY)

# A C++ compiler and a Chromium, which are installed where that is allowed.
needs: install
	@$(BIN)/python tests/needs.py

lint: install
	$(BIN)/ruff check src tests benchmarks tools tools/canary
	$(BIN)/ruff format --check src tests benchmarks tools tools/canary
	$(BIN)/mypy

# Writes the outputs shown in README.md and docs/ anew; a test holds them against the commands.
docs: install
	$(BIN)/python tests/docs_examples.py --write

clean:
	rm -rf $(VENV) $(DEMO) dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
