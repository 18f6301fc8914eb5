# make demo   installs, and trains the aligner of a small Qwen3-VL for a camera new to it
# make test   installs where needed, and runs every check; make test-long more of the slow ones
# make test-gpu   trains in every way on two GPUs
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
RUN := $(DEMO)/runs/$(shell date +%Y%m%d-%H%M%S)

# The one release of the imgaug fork, by the hash of its wheel.
PYIMGAUG := pyimgaug==0.5.0
PYIMGAUG_SHA256 := dc8b4bca8e9ffb9492026abe3479be55cc81986a85778396042d315cc9cb714a

.PHONY: install demo test test-long test-gpu test-wheel lint docs site canary clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt src/swiftalign/augment/_pixels.c
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "swiftalign needs Python 3.11 or newer"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip download --quiet --no-deps --only-binary=:all: --dest $(VENV)/wheels $(PYIMGAUG)
	echo "$(PYIMGAUG_SHA256)  $$(ls $(VENV)/wheels/pyimgaug-*.whl)" | sha256sum --check --quiet
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(VENV)/wheels/pyimgaug-*.whl --editable '.[dev]'
	# DeepSpeed comes as source, which asks for torch while it is built; its C++ parts are built when they are used.
	$(BIN)/python -m pip install --quiet 'setuptools>=77' wheel
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation deepspeed
	touch $@

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
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Further methods, signals and numbers of processes of what `make test` shows in a shorter form.
test-long: test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m long

# Every way of spreading a run over two GPUs, many runs at the same time: about eight minutes on 32 cores.
test-gpu: install
	$(BIN)/python -m pytest tests/gpu -m gpu

test-wheel: install
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

site: install
	$(BIN)/python -m mkdocs build --strict

# What newer releases of peft, transformers and ms-swift would break: make canary CANARY='--package peft==0.21.2'
canary: install
	$(BIN)/python tools/canary $(CANARY)

lint: install
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

# Writes the outputs shown in README.md and docs/ anew; a test holds them against the commands.
docs: install
	$(BIN)/python tests/docs_examples.py --write

clean:
	rm -rf $(VENV) $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis
