"""Weights beside those that are read, and links and pointers to content that was not fetched."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from corruptions.files import WEIGHTS, Damage, Harm, both, element, first, tensors, text

LEFT_OUT, TWICE, NOT_FETCHED = ("weights-left-out",), ("weights-twice",), ("file-not-fetched",)
TENSORS = {"model.visual.pos_embed.weight": torch.ones(2, 3), "mm_projector.bias": torch.ones(2)}
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
ANNEX = "../.git/annex/objects/f8/7x/MD5-s12--0/MD5-s12--0"
Save = Callable[[Any, Path], object]


def _beside(file: str, value: Any = TENSORS, save: Save = torch.save) -> Harm:
    return lambda path: save(value, path / file) and None


def _copied(source: str, target: str) -> Harm:
    def harm(path: Path) -> None:
        (path / target).parent.mkdir(exist_ok=True)
        shutil.copy(path / source, path / target)

    return harm


def _in_a_folder(path: Path) -> None:
    """As peft saves an adapter of another name than "default"."""
    for name in (WEIGHTS, "adapter_config.json"):
        _copied(name, f"vision/{name}")(path)
    save_file(TENSORS, path / "vision" / WEIGHTS)


def _retrained(path: Path) -> None:
    """Another adapter whose tensors have the same names."""
    _copied(WEIGHTS, f"copy/{WEIGHTS}")(path)
    tensors(lambda held: element(held[first(held, "lora_A.weight")], 0x3F800000), f"copy/{WEIGHTS}")(path)


def _last_bit(path: Path) -> None:
    data = bytearray((path / "copy" / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (path / "copy" / WEIGHTS).write_bytes(data)


def _linked(target: str, file: str = WEIGHTS) -> Harm:
    """A link to what is not there."""

    def harm(path: Path) -> None:
        (path / file).unlink()
        (path / file).symlink_to(target)

    return harm


def _kept_by_dvc(path: Path) -> None:
    (path / WEIGHTS).unlink()
    (path / f"{WEIGHTS}.dvc").write_text("outs: []")


LEFT: dict[str, Damage] = {
    "projector-beside-an-adapter": Damage(
        "lora",
        _beside("mm_projector.bin"),
        LEFT_OUT,
        message="PATH/mm_projector.bin: holds 2 tensors, e.g. model.visual.pos_embed.weight, which are not read",
    ),
    "tensor-deep-in-a-file": Damage(
        "lora",
        _beside("ema.pt", {"step": 3, "averages": [TENSORS["mm_projector.bias"]]}),
        LEFT_OUT,
        message="PATH/ema.pt: holds 1 tensor, e.g. averages.0, which is not read",
    ),
    "aligner-beside-an-adapter": Damage("saved", _beside("aligner.safetensors", save=save_file), LEFT_OUT),
    "model-beside-an-adapter": Damage("alone", _beside("model.safetensors", save=save_file), LEFT_OUT),
    "modules-beside-a-model": Damage("full", _beside("non_lora_state_dict.bin"), LEFT_OUT),
    "shard-of-another-save": Damage(
        "merged-in-shards", _beside("model-00001-of-00002.safetensors", save=save_file), LEFT_OUT
    ),
    "file-of-llama-cpp": Damage(
        "lora", text("adapter.gguf", "GGUF"), LEFT_OUT, message="PATH/adapter.gguf: holds weights, which are not read"
    ),
    "unreadable-file-beside": Damage("lora", text("head.pth", "no pickle"), LEFT_OUT),
    "adapter-in-a-folder": Damage("lora", _in_a_folder, LEFT_OUT),
    "adapter-in-a-folder-again": Damage("lora", _copied(WEIGHTS, f"copy/{WEIGHTS}"), TWICE),
    "adapter-in-a-folder-on-the-same-layers": Damage("lora", _retrained, LEFT_OUT),
    "adapter-in-a-folder-retrained-at-the-end": Damage(
        "lora", both(_copied(WEIGHTS, f"copy/{WEIGHTS}"), _last_bit), LEFT_OUT, ("--deep",)
    ),
    "adapter-pickled-in-a-folder": Damage("pickle", _copied("adapter_model.bin", "copy/adapter_model.bin"), LEFT_OUT),
    "adapter-in-two-formats": Damage("pickle", _copied("adapter_model.bin", "adapter_model.pt"), TWICE),
    "weights-in-lfs": Damage(
        "saved",
        text(WEIGHTS, LFS),
        NOT_FETCHED,
        message=f"PATH/{WEIGHTS}: is a pointer of Git LFS to content that is not here",
    ),
    "shard-in-lfs": Damage("merged-in-shards", text("model-00002-of-00006.safetensors", LFS), NOT_FETCHED),
    "config-in-lfs": Damage(
        "saved",
        text("adapter_config.json", LFS),
        ("adapter-config-malformed",),
        message="PATH/adapter_config.json: is a pointer of Git LFS to content that is not here",
    ),
    "pickle-in-lfs": Damage("pickle", text("adapter_model.bin", LFS), NOT_FETCHED),
    "weights-beside-in-lfs": Damage("lora", text("non_lora_state_dict.bin", LFS), NOT_FETCHED),
    "weights-in-annex": Damage(
        "saved",
        _linked(ANNEX),
        NOT_FETCHED,
        message=f"PATH/{WEIGHTS}: is a link of git-annex to content that is not here",
    ),
    "weights-in-annex-unlocked": Damage("saved", text(WEIGHTS, "/annex/objects/MD5-s12--0\n"), NOT_FETCHED),
    "projector-in-annex": Damage(
        "lora", both(text("mm_projector.bin", ""), _linked(ANNEX, "mm_projector.bin")), NOT_FETCHED
    ),
    "model-in-dvc": Damage("merged", _linked("../.dvc/cache/files/md5/0a/1b", "model.safetensors"), NOT_FETCHED),
    "weights-not-pulled": Damage(
        "saved", _kept_by_dvc, NOT_FETCHED, message=f"PATH/{WEIGHTS}: is not here, and DVC keeps PATH/{WEIGHTS}"
    ),
    "weights-linked-to-nothing": Damage(
        "saved", _linked("/gone"), NOT_FETCHED, message=f"PATH/{WEIGHTS}: is a link to /gone, which is not there"
    ),
}
