"""An evaluation from beginning to end: which models, which rows, who answers, and where it is kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from swiftalign.config.sections import Config, DataSource
from swiftalign.data.encoding import Encoding, encoding_of
from swiftalign.data.rows import Rows
from swiftalign.evaluation.chat import Chatting
from swiftalign.evaluation.engine import Engine
from swiftalign.evaluation.evaluate import Progress, ask, begin, read_settings
from swiftalign.evaluation.kept import PREDICTIONS, SETTINGS, stamps
from swiftalign.evaluation.predictions import Prediction, PredictionFile
from swiftalign.evaluation.questions import Question, questions_of
from swiftalign.evaluation.report import Answered, Evaluation
from swiftalign.evaluation.subject import Subject, find_subject
from swiftalign.files import short_path
from swiftalign.model.families import published_config
from swiftalign.problems import SwiftalignError

_OTHER = "against"  # folder of the other model's answers, in the folder of the evaluation

Start = Callable[[str], Progress]
"""Begins to show progress under a name."""


@dataclass(frozen=True)
class Ways:
    """How models are asked.

    Attributes:
        url: address of the server that has the model; None to load it in this process.
        served_name: the model's name there.
        key: the key that the server asks for.
        probabilities: whether a server is asked for the probabilities of what it writes.
        device: torch's name of the device of a model in this process; None for a GPU where there is one.
        dtype: torch's name of its dtype; None for that of its files, on a CPU float32.
        base: folder of the base model, where it is no longer where a checkpoint says.
    """

    url: str | None = None
    served_name: str | None = None
    key: str | None = None
    probabilities: bool = False
    device: str | None = None
    dtype: str | None = None
    base: Path | None = None


HERE = Ways()


@dataclass(frozen=True)
class Session:
    """A model, and the rows that it is to answer.

    Attributes:
        subject: the model.
        rows: the rows.
        questions: those of them that ask where something is, or a part of these.
        left_out: number of rows that do not ask.
        encoding: what the model's run makes of its rows.
        text: the configuration's words around targets.
        ways: how it is asked.
        limit: number of rows that were asked for at most.
    """

    subject: Subject
    rows: Rows
    questions: list[Question]
    left_out: int
    encoding: Encoding
    text: dict[str, Any]
    ways: Ways
    limit: int | None = None

    @property
    def assumed(self) -> bool:
        """Whether it is assumed that the model writes thousandths of the image's sides."""
        folder = self.subject.folder
        return self.encoding.assumed or not (folder.exists() or published_config(str(folder)))

    @classmethod
    def open(
        cls,
        model: Path,
        files: Sequence[Path],
        ways: Ways = HERE,
        *,
        which: str | None = None,
        config: Config | None = None,
        limit: int | None = None,
        allowed: Collection[str] = (),
    ) -> Session:
        """Find the model and read the rows.

        Args:
            which: the checkpoint of a run: ``best``, ``last`` or its step.
            files: files or folders of rows.
            config: the configuration whose words the questions have; None for that of the model's run.
            limit: most questions to ask, drawn evenly from all.
            allowed: the codes of errors that a row may have.

        Raises:
            ModelError: there is no such model.
            DataError: the rows can't be read, or none asks where something is.
        """
        elsewhere = ways.url and not model.exists()  # the server alone has its files
        subject = Subject(model, model) if elsewhere else find_subject(model, ways.base, which)
        place = subject.folder.resolve() if subject.folder.exists() else model
        config = config or subject.config or Config.model_validate({"model": {"path": str(place)}})
        encoding = encoding_of(config)
        rows = Rows([DataSource(path=str(path)) for path in files], writing=encoding.writing)
        questions = questions_of(rows, allowed)
        left_out = len(rows) - len(questions)
        if limit and limit < len(questions):
            chosen = np.linspace(0, len(questions) - 1, limit).round().astype(int)
            questions = [questions[index] for index in chosen.tolist()]
        return cls(subject, rows, questions, left_out, encoding, config.data.text.model_dump(), ways, limit)

    def evaluate(
        self,
        folder: Path,
        against: Path | None = None,
        *,
        protocol: str = "",
        anew: bool = False,
        progress: Start = lambda name: lambda done, total: None,
    ) -> Evaluation:
        """Ask the model, and another to compare it with, and write all files of the evaluation.

        Args:
            folder: the evaluation's folder; one of the same evaluation is gone on with.
            against: the other model, or the folder of its evaluation.
            protocol: the name of a public protocol to count by as well.
            anew: whether an evaluation that is there is replaced.

        Raises:
            SwiftalignError: the folder holds something else; the other evaluation is of other rows; or nothing could
                be asked.
        """
        theirs = None
        if against and (against / SETTINGS).is_file():
            theirs = self._earlier(against)
        elif against:
            other = find_subject(against, self.ways.base)
        mine = Answered(self.subject.name, self.answers(folder, anew=anew, progress=progress))
        if against and theirs is None:
            here = replace(self.ways, url=None)
            theirs = Answered(other.name, self._ask(other, here, folder / _OTHER, anew, progress))
        if theirs and theirs.name == mine.name:
            theirs = replace(theirs, name=f"{theirs.name} (other)")
        progress("counting and drawing")
        found = Evaluation(mine, theirs, self.left_out, protocol)
        found.write(folder, self.rows, ", ".join(file.path.name for file in self.rows.files))
        return found

    def answers(
        self, folder: Path, *, anew: bool = False, progress: Start = lambda name: lambda done, total: None
    ) -> list[Prediction]:
        """What the model answers, in the order of the questions; arguments and errors as of `evaluate`."""
        return self._ask(self.subject, self.ways, folder, anew, progress)

    def _asked(self) -> dict[str, Any]:
        """What decides the questions, for the settings of an evaluation."""
        files = [file.path for file in self.rows.files]
        return {"rows": stamps(files), "limit": self.limit, "text": self.text, "system": self.encoding.system}

    def _ask(self, subject: Subject, ways: Ways, folder: Path, anew: bool, progress: Start) -> list[Prediction]:
        from swiftalign.evaluation.local import LocalModel, chosen_dtype
        from swiftalign.evaluation.served import ServedModel

        dtype = None if ways.url else chosen_dtype(ways.device, ways.dtype)
        settings = {
            "name": subject.name,
            "model": str(subject.path.resolve()),
            "files": stamps(subject.files),
            "url": ways.url,
            "served_name": ways.served_name,
            "dtype": dtype,
            **self._asked(),
        }
        begin(folder, settings, anew=anew)
        switches = {"enable_thinking": False} if self.encoding.chat.answer else {}
        chatting = Chatting(self.encoding.system, switches)

        def engine() -> Engine:
            if not ways.url:
                return LocalModel(subject.folder, subject.adapter, device=ways.device, dtype=dtype, chatting=chatting)
            return ServedModel(
                ways.url, ways.served_name, key=ways.key, chatting=chatting, probabilities=ways.probabilities
            )

        tokenizer = subject.folder / "tokenizer.json"
        return ask(engine, self.questions, self.rows, folder, tokenizer, progress(subject.name))

    def _earlier(self, folder: Path) -> Answered:
        """The answers of an evaluation that another call has made."""
        settings = read_settings(folder)
        asked = self._asked()
        if changed := [key for key in asked if settings.get(key) != asked[key]]:
            message = f"--against {folder}: that evaluation was made with other {', '.join(changed)}"
            raise SwiftalignError(message, "evaluate that model on the same rows first")
        found = PredictionFile(folder / PREDICTIONS, self.rows.writing).read(self.questions)
        if len(found) < len(self.questions):
            message = f"--against {folder}: {len(found):,} of {len(self.questions):,} rows are answered"
            raise SwiftalignError(message, "finish that evaluation first, by the same command")
        name = str(settings.get("name") or short_path(folder))
        return Answered(name, [found[question.index] for question in self.questions])
