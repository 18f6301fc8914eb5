"""Weight files, indexes and images; adapters, what lies beside them, and their export.

What `verify` calls sound must have the names, shapes and dtypes of the sound original, as the library safetensors
reads them, and be read by it at all. An export of it must have the names, shapes and dtypes of the original's.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from safetensors import SafetensorError, safe_open

from corruptions import FOREIGN, PLANTED
from corruptions.files import WEIGHTS
from corruptions.foreign import build_foreign
from corruptions.sound import build_run, merge
from fuzz.fuzz import put_back, show
from fuzz.mutations import Mutate, in_bytes, in_header, in_index, in_json, in_weights, pickles
from swiftalign.checkpoint.verify import Verification, verify
from swiftalign.cli.show import print_verification
from swiftalign.data.images import check_image, image_size, open_image
from swiftalign.demo.model import build_model
from swiftalign.exports.export import export
from swiftalign.model.read import read
from swiftalign.model.stored import stored_tensors
from swiftalign.model.tree import ModelSource
from swiftalign.problems import DataError

Shapes = dict[str, tuple[tuple[int, ...], str]]
INDEX = "model.safetensors.index.json"
SHARD = "model-00002-of-00006.safetensors"
FORMATS = {
    "png": {},
    "jpg": {"quality": 90},
    "webp": {},
    "bmp": {},
    "gif": {},
    "tif": {"compression": "tiff_lzw"},
    "ppm": {},
}


def shapes_of(folder: Path) -> Shapes:
    """Shape and dtype of every tensor in a folder, as the library safetensors reads them."""
    found: Shapes = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118  # it is no mapping
                found[name] = tuple(file.get_slice(name).get_shape()), file.get_slice(name).get_dtype()
    return found


def look(path: Path, *, table: bool = True, **options: Any) -> Verification:
    """Verify, and show the result as JSON and as text."""
    result = verify(path, **options)
    show(json.dumps(result.to_json(), ensure_ascii=False, indent=1))
    if table:
        text = io.StringIO()
        print_verification(result, Console(file=text, width=160, highlight=False), keys=True)
        show(text.getvalue())
    return result


class Checkpoints:
    """Folders of weights, of which one file at a time is mutated."""

    names_files = False

    def __init__(self, folder: Path) -> None:
        self.folder, self.changed = folder, ""
        build_model(folder / "base")
        self.sound: dict[str, Shapes] = {}

    def look(self, path: Path, folder: Path, rng: Random) -> Iterator[str]:
        """Verify; what is sound must be what it was."""
        options: dict[str, Any] = {"deep": rng.random() < 0.4, "resumable": rng.random() < 0.8}
        options["table"] = rng.random() < 0.3  # it takes longer than all else
        if rng.random() < 0.2:
            options["base"] = self.folder / "base"
        result = look(path, **options)
        if result.ok and path.is_dir():
            try:
                found = shapes_of(folder)
            except SafetensorError as error:
                yield f"sound, but safetensors refuses it: {error}"
            else:
                if found != self.sound[folder.name] and result.expectation:
                    other = {
                        name
                        for name in found.keys() | self.sound[folder.name]
                        if found.get(name) != self.sound[folder.name].get(name)
                    }
                    yield f"sound, but not the same: {sorted(other)[:3]}"


class Headers(Checkpoints):
    """Headers of safetensors files and of images, shard indexes, and the config of a model."""

    def __init__(self, root: Path) -> None:
        super().__init__(root / "headers")
        runs = {name: build_run(name, self.folder / "base", self.folder / f"run-{name}") for name in ("lora", "saved")}
        model = merge(runs["saved"], self.folder / "base", self.folder / "model", max_shard_size="300KB")
        self.paths = {**runs, "model": model}
        (self.paths["model"] / "modeling_x.py").write_text(f"import os\nos.mkdir({PLANTED!r})\n")
        self.sound = {path.name: shapes_of(path) for path in self.paths.values()}
        self.by_name = {name: shapes_of(path) for name, path in self.paths.items()}
        self.targets: list[tuple[str, str, Mutate]] = [
            ("lora", WEIGHTS, in_weights),
            ("lora", WEIGHTS, in_header),
            ("saved", WEIGHTS, in_weights),
            ("model", SHARD, in_weights),
            ("model", INDEX, in_index),
            ("model", "config.json", in_json),
            ("model", "tokenizer_config.json", in_json),
        ]
        pixels = np.random.default_rng(0).integers(0, 255, (12, 20, 3), dtype=np.uint8)
        self.images = self.folder / "images"
        self.images.mkdir()
        turned = Image.Exif()
        turned[0x0112] = 6
        for suffix, options in FORMATS.items():
            exif = {"exif": turned} if suffix in ("jpg", "png", "webp", "tif") else {}
            Image.fromarray(pixels).save(self.images / f"a.{suffix}", **options, **exif)
        Image.fromarray(pixels).convert("RGBA").save(self.images / "b.png")
        Image.fromarray(pixels[..., 0].astype(np.uint16)).save(self.images / "c.png")

    def case(self, rng: Random) -> Iterator[str]:
        if rng.random() < 0.35:
            yield from self._image(rng)
            return
        name, file, mutate = rng.choice(self.targets)
        folder = self.paths[name]
        path = folder / file
        with put_back(path):
            path.write_bytes(content := mutate(path.read_bytes(), rng))
            self.changed = f"{name}/{file}: {content[:1200]!r}"
            self.sound[folder.name] = self.by_name[name]
            yield from self.look(folder, folder, rng)
            if name == "model":
                stored_tensors(folder)
                read(ModelSource(str(folder)))

    def _image(self, rng: Random) -> Iterator[str]:
        source = rng.choice(sorted(self.images.iterdir()))
        path = self.folder / f"mutated{source.suffix}"
        content = in_bytes(source.read_bytes()[: rng.choice((64, 400, 10**6))], rng) if rng.random() < 0.7 else b""
        content = content or b"".join((content, *(bytes([rng.randrange(256)]) for _ in range(4)), source.read_bytes()))
        path.write_bytes(content)
        self.changed = f"{path.name}: {content[:200]!r}"
        image = content if rng.random() < 0.2 else path
        try:
            size = image_size(image)
            check_image(image)
        except DataError as error:
            show(error.message, error.hint or "")
            return
        shown = open_image(image)
        if shown.shape != (size[1], size[0], 3):
            yield f"an image of {size} is {shown.shape} when it is opened"


class Adapters(Checkpoints):
    """Adapters of runs, of peft alone, as pickles, and the files beside their weights."""

    RUNS = ("lora", "saved", "dora", "adalora", "boft", "fourierft")
    ALONE = ("peft-rank-pattern", "peft-bias-all", "peft-rows", "peft-layers-pattern", "peft-exclude-regex")

    def __init__(self, root: Path) -> None:
        super().__init__(root / "adapters")
        base = self.folder / "base"
        found = {name: build_run(name, base, self.folder / name) for name in self.RUNS}
        found |= {name: build_foreign(FOREIGN[name], base, self.folder / name) for name in self.ALONE}
        found["lora-alone"] = Path(shutil.copytree(found["lora"], self.folder / "alone/lora"))
        self.adapters = found
        self.shapes = {name: shapes_of(path) for name, path in found.items()}
        self.pickles = list(pickles())
        self.exported: dict[str, Shapes] = {}

    def case(self, rng: Random) -> Iterator[str]:
        name = rng.choice(list(self.adapters))
        folder = self.adapters[name]
        beside = [
            "adapter_config.json",
            "adapter_config.json",
            WEIGHTS,
            "trainer_state.json",
            "optimizer.pt",
            "scheduler.pt",
        ]
        if folder.parent.name == name:
            beside += ["../plan.json", "../initial.json", "../config.yaml"]
        file = rng.choice([each for each in beside if (folder / each).exists()])
        path, pickle = folder / file, folder / "adapter_model.bin"
        with put_back(path, folder / WEIGHTS, pickle):
            if file == WEIGHTS and rng.random() < 0.3:
                path.unlink()
                content = rng.choice(self.pickles)
                content = in_bytes(content, rng) if rng.random() < 0.6 else content
                pickle.write_bytes(content)
                path = pickle if rng.random() < 0.5 else folder
            else:
                mutate = in_weights if file == WEIGHTS else in_json if file.endswith(".json") else in_bytes
                content = mutate(path.read_bytes(), rng)
                if file.endswith(".pt") and rng.random() < 0.5:
                    content = rng.choice(self.pickles)
                path.write_bytes(content)
                path = folder
            self.changed = f"{name}/{file}: {content[:700]!r}"
            self.sound[folder.name] = self.shapes[name]
            yield from self.look(path, folder, rng)
            if path == folder and rng.random() < 0.05:
                yield from self._export(name, folder, rng)

    def _export(self, name: str, folder: Path, rng: Random) -> Iterator[str]:
        output, part = self.folder / "exported", rng.choice(("adapter_only", "aligner_only", ""))
        try:
            export(folder, output, base=self.folder / "base", **({part: True} if part else {}))
            shapes = shapes_of(output)
            for card in output.glob("README.md"):
                show(card.read_text(encoding="utf-8"))
            if not part and shapes != shapes_of(self.folder / "base"):
                yield "the exported model has other tensors than the base"
            if part == "adapter_only" and shapes != self.shapes[name]:
                yield "the exported adapter has other tensors than the checkpoint"
        finally:
            shutil.rmtree(output, ignore_errors=True)
