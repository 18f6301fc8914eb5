"""What is evaluated: a model folder, or a checkpoint with the base that it belongs to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from swiftalign.checkpoint.read import Checkpoint, base_of, read_checkpoint
from swiftalign.checkpoint.verify import verify
from swiftalign.config.load import load_config
from swiftalign.config.sections import Config
from swiftalign.model.hub import local_folder
from swiftalign.problems import ModelError, blocking


@dataclass(frozen=True)
class Subject:
    """A model as it is loaded.

    Attributes:
        path: what the user named.
        folder: the folder of the model's files.
        adapter: the folder of an adapter that belongs on it; None for a model as it is.
        config: the configuration of the run that made it; None where there is none.
        chosen: which checkpoint of a run it is, and why; empty where the user named the model itself.
        remarks: what a reader should know of the base.
        origin: what the files of `path` say; an adapter's temporary folder lasts as long as this.
    """

    path: Path
    folder: Path
    adapter: Path | None = None
    config: Config | None = None
    chosen: str = ""
    remarks: tuple[str, ...] = ()
    origin: Checkpoint | None = None

    @property
    def name(self) -> str:
        """The model as it is called in tables: a checkpoint with its run."""
        path = self.path.resolve()
        return f"{path.parent.name}/{path.name}" if path.name.startswith("checkpoint-") else path.name

    @property
    def files(self) -> tuple[Path, ...]:
        """The weight files, by whose names, sizes and times it is told whether a model is still the same."""
        found = set(self.folder.glob("*.safetensors"))
        if self.adapter and self.origin:
            gathered = self.adapter != self.origin.folder  # from files of any name
            found |= set(self.origin.folder.rglob("*") if gathered else self.adapter.glob("*.safetensors"))
        return tuple(sorted(file for file in found if file.is_file()))


def find_subject(path: Path, base: Path | None = None, which: str | None = None) -> Subject:
    """The model that a path names: a model folder, a run, a checkpoint, an adapter, or a hub's id.

    Args:
        base: folder of the base model, where it is no longer where a checkpoint says.
        which: the checkpoint of a run, as `choose` takes it.

    An id is looked up in the Hugging Face client's cache; nothing is downloaded.

    Raises:
        ModelError: there is no model, or a checkpoint's base is not here.
    """
    if not path.exists() and (cached := local_folder(str(path))):
        return replace(find_subject(cached), path=path)
    checkpoint = read_checkpoint(path, which)
    folder = checkpoint.path
    if checkpoint.weights.kind == "file":
        raise ModelError(f"{path}: a weight file alone is not a model", "name the folder that holds it")
    place = base_of(checkpoint, base) if checkpoint.adapter else folder
    checked = verify(checkpoint, base=place if base and checkpoint.adapter else None, resumable=False)
    if errors := blocking(checked.findings):
        raise ModelError(f"{folder} is not sound: {errors[0].message} [{errors[0].code}]", errors[0].hint)
    file = folder.parent / "config.yaml"
    config = load_config([file]) if checkpoint.plan and file.is_file() else None
    reason = checkpoint.chosen.reason
    chosen = f"{folder.name}, {reason}" if reason else "" if folder == path else folder.name
    adapter = (checkpoint.weights.gathered or folder) if checkpoint.adapter else None
    return Subject(path, place, adapter, config, chosen, checked.about_base, checkpoint)
