"""Every finding fires where it should, points at the setting, is silent beside it, and has a fix that cures."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from finding_cases import TRAINED, WHOLE, Case
from finding_cases_run import RUN
from swiftalign.checks.preflight import preflight
from swiftalign.checks.rates import SWIFT_OPTIMIZERS
from swiftalign.checks.trained import expect_aligner
from swiftalign.checks.training import REPORTERS
from swiftalign.config.load import load_config
from swiftalign.config.sections import Config
from swiftalign.demo.model import build_model
from swiftalign.model.tree import Model
from swiftalign.plan.read import read_model
from swiftalign.plan.resolve import resolve
from swiftalign.problems import CODES, Problem, blocking
from swiftalign.versions import TESTED_VERSIONS
from swiftalign.yaml12 import dump_yaml

DOCS = Path(__file__).parents[1] / "docs" / "findings.md"

# Codes that no configuration of these models alone gives; each has a test of its own, here or in that of its subject.
BEYOND_CONFIG = {
    "padding-free-mixes-rows",
    "class-not-loadable",
    "parameter-without-group",
    "loader-starves",
    "versions-untested",
    "phases-uncarried",
    "package-missing",
    "swift-name-unknown",
    "model-type-ambiguous",
    "template-ambiguous",
    "remote-code",
    "swift-prefixes-wrong",
    "adapter-not-reloadable",
    "argument-unknown",
    "best-metric-zero",
}

CASES = [*TRAINED, *RUN]

# What users of this field lose days to before training, by number, and the codes that answer it.
FIELD_FAILURES: dict[int, set[str]] = {
    1: set(),  # trained is not what was meant, by name: the worker compares before the first step, see test_compare.py
    2: {"aligner-incomplete", "aligner-untouched"},  # merger without its deepstack mergers
    3: {"lm-head-trained", "embeddings-trained", "tied-embeddings"},  # lm_head and embeddings train unasked
    4: {"regex-invalid", "target-matches-nothing", "saved-matches-nothing", "nothing-trains"},  # names match nothing
    5: {"vit-by-suffix"},  # a suffix hits the ViT's blocks
    6: {"target-saved-overlap", "saved-nested", "saved-by-suffix"},  # what peft can't wrap
    7: {  # a method's constraints
        "adalora-schedule",
        "adalora-ranks",
        "adalora-reload",
        "boft-blocks",
        "fourier-frequencies",
        "dora-exclusive",
        "dora-without-layers",
    },
    8: {  # gradients, but no optimizer group, or another rate
        "parameter-without-group",
        "optimizer-unknown",
        "optimizer-unplanned",
        "rate-needs-multimodal",
        "unused-learning-rate",
        "zero-learning-rate",
    },
    9: {"low-precision-trainables"},  # bf16 weights at a low rate
    10: {"versions-untested"},  # versions, which the run folder records too
    11: set(),  # unknown and Megatron-only keys, tuner_type beside train_type: errors of load_config
    12: set(),  # lora_llm: an error of load_config
    13: {"zero3-moe"},  # ZeRO-3; what it saves is always gathered, and all experts of a layer are gathered at once
    14: {"curriculum-shuffle"},  # two shuffle flags
    20: {"resume-mismatch", "resume-finished"},  # resuming another run, or a finished one
}


@pytest.fixture(scope="module")
def models(demo: Path, demo_modules: Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folder = tmp_path_factory.mktemp("models")
    build_model(folder / "tied", tied=True)
    build_model(folder / "moe", moe=True)
    path = folder / "2B.yaml"
    path.write_text("model: Qwen/Qwen3-VL-2B-Instruct\n", encoding="utf-8")
    (folder / "bf16.yaml").write_text(f"model: {{path: {demo / 'model'}, dtype: bfloat16}}", encoding="utf-8")
    found = {"demo": demo_modules, "unbuilt": replace(demo_modules, unbuilt=("mtp.fc.weight",))}
    found["incomplete"] = replace(demo_modules, missing=("model.visual.merger.norm.bias",))
    found["bf16"] = read_model(load_config([folder / "bf16.yaml"]))
    found["2B"] = read_model(load_config([path]))
    for name in ("tied", "moe"):
        (folder / f"{name}.yaml").write_text(f"model: ./{name}", encoding="utf-8")
        found[name] = read_model(load_config([folder / f"{name}.yaml"]))
    return found


@pytest.fixture(scope="module")
def checkpoint(demo_modules: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of modules_to_save, at step 30."""
    folder = tmp_path_factory.mktemp("run") / "checkpoint-30"
    folder.mkdir()
    adapter = {
        "peft_type": "LORA",
        "target_modules": "dummy-target-modules",
        "modules_to_save": list(demo_modules.mergers),
        "base_model_name_or_path": demo_modules.source,
    }
    (folder / "adapter_config.json").write_text(json.dumps(adapter), encoding="utf-8")
    (folder / "trainer_state.json").write_text('{"global_step": 30}', encoding="utf-8")
    return folder


Write = Callable[[str], Path]


@pytest.fixture
def write(demo: Path, checkpoint: Path, tmp_path: Path) -> Write:
    """A configuration file from a text of the table."""

    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        text = text.replace("DATA", str(demo / "data/train.jsonl")).replace("CHECKPOINT", str(checkpoint))
        path.write_text(f"model: {demo / 'model'}\n{text}", encoding="utf-8")
        return path

    return write


def find(paths: list[Path], case: Case, models: dict[str, Model]) -> tuple[Problem, ...]:
    modules = models[case.model]
    config = load_config(paths)
    plan = resolve(config, modules, processes=case.processes)
    expected = expect_aligner(plan, modules) if case.code == "outside-expected" else ()
    return (*preflight(config, modules, plan), *expected)


each_case = pytest.mark.parametrize(
    "case", [pytest.param(case, id=f"{case.code}-{number}") for number, case in enumerate(CASES)]
)


@each_case
def test_finding_fires_with_its_message_at_the_setting(
    case: Case, models: dict[str, Model], write: Write, checkpoint: Path
) -> None:
    path = write(case.text)
    found = [finding for finding in find([path], case, models) if finding.code == case.code]
    message = case.message.replace("CHECKPOINT", str(checkpoint)).replace("MODEL", models[case.model].source)
    [finding] = [finding for finding in found if finding.message == message] or found
    lines = path.read_text(encoding="utf-8").splitlines()
    marked = [f"{path}:{number}" for number, line in enumerate(lines, start=1) if line.endswith("# here")]
    assert finding.message == message
    assert finding.where == (marked[0] if marked else "")


@each_case
def test_finding_is_silent_beside_its_fault(case: Case, models: dict[str, Model], write: Write) -> None:
    near = replace(case, model="demo") if case.model in ("unbuilt", "incomplete") else case
    assert case.code not in {finding.code for finding in find([write(case.clean)], near, models)}


@each_case
def test_fix_cures_its_finding_and_brings_no_new_error(case: Case, models: dict[str, Model], write: Write) -> None:
    base = write(case.text)
    before = find([base], case, models)
    fixes = [finding.fix for finding in before if finding.code == case.code and finding.fix]
    patch = base.with_name("fix.yaml")
    for fix in fixes:
        patch.write_text(dump_yaml(fix), encoding="utf-8")
        after = find([base, patch], case, models)
        assert case.code not in {finding.code for finding in after}
        assert {finding.code for finding in blocking(after)} <= {finding.code for finding in blocking(before)}
    assert not (fixes and case.no_fix)
    assert fixes or case.no_fix or CODES[case.code][0] != "error"


def test_every_code_has_a_case() -> None:
    assert {case.code for case in CASES} | BEYOND_CONFIG == set(CODES)


def test_field_failures_name_known_codes_and_leave_no_point_out() -> None:
    assert set().union(*FIELD_FAILURES.values()) <= set(CODES)
    assert set(FIELD_FAILURES) == {*range(1, 15), 20}


def test_docs_list_exactly_the_codes() -> None:
    rows = [f"| `{code}` | {severity} | {meaning} |" for code, (severity, meaning) in CODES.items()]
    text = DOCS.read_text(encoding="utf-8").partition("\n## ")[0]
    assert [line for line in text.splitlines() if line.startswith("| `")] == rows


def test_parameter_without_group_fires_for_one_left_out_and_for_one_in_two(
    make_config: Callable[[str], Config], demo_modules: Model
) -> None:
    config = make_config(WHOLE)
    plan = resolve(config, demo_modules)
    first, *rest = plan.groups
    short = replace(plan, groups=(replace(first, parameters=first.parameters[1:]), *rest))
    double = replace(plan, groups=(*plan.groups, replace(first, parameters=first.parameters[:1])))
    name = first.parameters[0]
    for faulty, where in ((short, "no optimizer group"), (double, "two optimizer groups")):
        found = [f.message for f in preflight(config, demo_modules, faulty) if f.code == "parameter-without-group"]
        assert found == [f"1 trainable parameter would be in {where}: {name}"]
    assert "parameter-without-group" not in {finding.code for finding in preflight(config, demo_modules, plan)}


def test_other_releases_are_named(
    monkeypatch: pytest.MonkeyPatch, make_config: Callable[[str], Config], demo_modules: Model
) -> None:
    def installed(name: str) -> str:
        if name == "peft":
            raise importlib.metadata.PackageNotFoundError(name)
        return {"ms-swift": "4.7.0", "torch": f"{TESTED_VERSIONS['torch']}+cu130"}.get(name, TESTED_VERSIONS[name])

    monkeypatch.setattr(importlib.metadata, "version", installed)
    config = make_config(WHOLE)
    findings = preflight(config, demo_modules, resolve(config, demo_modules))
    [finding] = [finding for finding in findings if finding.code == "versions-untested"]
    assert finding.message == "ms-swift 4.7.0 (tested: 4.6.0), peft unknown (tested: 0.20.0)"


def test_tested_versions_are_those_that_are_locked() -> None:
    locked = (Path(__file__).parents[1] / "requirements.lock").read_text(encoding="utf-8")
    assert {f"{name}=={version}" for name, version in TESTED_VERSIONS.items()} <= {*locked.split()}


def test_optimizers_are_those_of_ms_swift() -> None:
    spec = find_spec("swift")
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent / "optimizers/mapping.py").read_text(encoding="utf-8")
    assert set(re.findall(r"'(\w+)': \w+Callback", source)) == set(SWIFT_OPTIMIZERS)


def test_reporters_are_those_of_transformers() -> None:
    spec = find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent / "integrations/integration_utils.py").read_text(encoding="utf-8")
    table = source.partition("INTEGRATION_TO_CALLBACK = {")[2].partition("}")[0]
    assert set(re.findall(r'"(\w+)":', table)) == set(REPORTERS)
