"""verify-ckpt and export take an adapter from FSDP's shards, and name the shards of other checkpoints."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from corruptions.damaged_files import PLANTED
from corruptions.damaged_shards import ZERO3, shards
from corruptions.sound import build_run
from swiftalign.checkpoint.distributed import read_distributed
from swiftalign.checkpoint.verify import verify
from swiftalign.cli import main
from swiftalign.demo.model import build_model
from swiftalign.exports.export import export
from swiftalign.problems import SwiftalignError

# As accelerate saves an adapter under FSDP2: tensors divided by rows over the processes, under the key "model".
SAVE = """
import sys, torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
held = {name: distribute_tensor(value, mesh, [Shard(0)]) for name, value in load_file(sys.argv[1]).items()}
dcp.save({"model": held}, checkpoint_id=sys.argv[2])
dcp.save({"optimizer": {"state": held, "step": 3}}, checkpoint_id=sys.argv[3])
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ms-swift with one checkpoint in FSDP's shards, beside the same checkpoint as one file, and the base."""
    root = tmp_path_factory.mktemp("shards")
    build_model(root / "base")
    whole = build_run("lora", root / "base", root / "whole")
    folder = root / "run/checkpoint-30"
    folder.mkdir(parents=True)
    for name in ("trainer_state.json", "scheduler.pt"):
        shutil.copy(whole / name, folder)
    config = json.loads((whole / "adapter_config.json").read_text())
    arguments = {"tuner_type": "lora", "model_dir": str(root / "base"), "lora_rank": config["r"], "lora_bias": "none"}
    arguments |= {name: config[name] for name in ("lora_alpha", "use_rslora", "use_dora", "target_modules")}
    (root / "run/args.json").write_text(json.dumps(arguments | {"modules_to_save": []}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    places = [whole / "adapter_model.safetensors", folder / "pytorch_model_fsdp_0", folder / "optimizer_0"]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SAVE, *map(str, places)]
    processes = [subprocess.Popen(command, env={**shared, "RANK": rank}) for rank in ("0", "1")]
    assert [process.wait(120) for process in processes] == [0, 0]
    return root


@pytest.mark.parametrize("place", ["run", "run/checkpoint-30", "run/checkpoint-30/pytorch_model_fsdp_0"])
def test_an_adapter_in_shards_is_sound(place: str, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify-ckpt", str(made / place), "--deep", "--base", str(made / "base")]) == 0
    text = capsys.readouterr().out
    assert "state       the optimizer's lies in optimizer_0: resume with FSDP\n" in text
    assert "args.json and the base model" in text


def test_gathered_tensors_are_those_that_were_divided(made: Path) -> None:
    found = read_distributed(made / "run/checkpoint-30/pytorch_model_fsdp_0")
    expected = load_file(made / "whole/checkpoint-30/adapter_model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_it_exports_as_the_same_adapter_in_one_file(made: Path, tmp_path: Path) -> None:
    reports = [
        export(made / f"{kind}/checkpoint-30", tmp_path / kind, base=made / "base", check_logits=kind == "run")
        for kind in ("run", "whole")
    ]
    assert reports[0].digests == reports[1].digests
    assert reports[0].checkpoint == made / "run/checkpoint-30"
    assert (reports[0].max_logit_difference or 0) < 0.05
    assert "swiftalign-" not in (tmp_path / "run/README.md").read_text()
    export(made / "run", tmp_path / "adapter", adapter_only=True)
    assert verify(tmp_path / "adapter", deep=True).ok


def test_no_temporary_folder_is_left(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = verify(made / "run")
    assert len(list(tmp_path.iterdir())) == 1
    del result
    assert not list(tmp_path.iterdir())


def test_without_arguments_an_adapter_has_no_config(made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made / "run/checkpoint-30", tmp_path / "checkpoint-30")
    assert [finding.code for finding in verify(folder).findings] == ["adapter-config-missing"]
    shutil.copy(made / "whole/checkpoint-30/adapter_config.json", folder)
    assert verify(folder, deep=True).ok


def test_shards_beside_an_adapter_are_its_optimizer(made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made / "whole/checkpoint-30", tmp_path / "checkpoint-30")
    for name in ("optimizer.pt", "scheduler.pt"):
        (folder / name).unlink()
    shards(*(f"global_step30/{name}" for name in ZERO3))(folder)
    result = verify(folder)
    assert not result.findings
    assert result.state == "the optimizer's lies in global_step30: resume with DeepSpeed and 2 processes"


def test_an_export_is_refused_with_the_command_that_gathers(made: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made / "whole/checkpoint-30", tmp_path / "a run/checkpoint-30")
    (folder / "adapter_model.safetensors").unlink()
    shards(*(f"global_step30/{name}" for name in ZERO3))(folder)
    with pytest.raises(SwiftalignError, match="weights-in-shards") as refused:
        export(folder, tmp_path / "out")
    command = f"zero_to_fp32 '{folder}' '{folder}/gathered' --tag global_step30"
    assert command in (refused.value.hint or "")


def _flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _rename(data: bytearray, rng: random.Random) -> None:
    """Other words of the same length, so that the pickle stays whole."""
    words = (b"__0_0.distcp", b"_StorageInfo", b"PosixPath", b"float32", b"Size", b"model.base_model")
    others = (b"../../../etc", b"_StorageNone", b"os.system", b"float64", b"Tag.", b"__class__.__di__")
    place = rng.randrange(len(words))
    data[:] = data.replace(words[place], others[place], rng.randint(1, 9))


@pytest.mark.parametrize("file", [".metadata", "__0_0.distcp"])
def test_damaged_shards_end_in_findings(file: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made / "run", tmp_path / "run")
    path = tmp_path / "run/checkpoint-30/pytorch_model_fsdp_0" / file
    original, rng = path.read_bytes(), random.Random(file)
    harms: list[Callable[[bytearray, random.Random], None]] = [_flip, _cut, _rename]
    refused = 0
    for _ in range(150):
        data = bytearray(original)
        rng.choice(harms)(data, rng)
        path.write_bytes(data)
        try:
            result = verify(tmp_path / "run")
            refused += any(finding.code == "pickle-refused" for finding in result.findings)
        except SwiftalignError:
            pass
    assert refused > 30
    assert not (tmp_path / PLANTED).exists()
