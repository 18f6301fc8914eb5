"""Let a model folder answer the first image of a JSONL file: ``python -m swiftalign.demo.answer MODEL ROWS``."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from swiftalign.demo.score import Writer, read_sized


def answer_first(model_folder: Path, rows: Path, *, max_new_tokens: int = 24) -> tuple[str, str]:
    """The prompt of the first row, and what the model writes for its image."""
    first = next(read_sized(rows))
    [written] = Writer.of(model_folder)([first], max_new_tokens)
    return first[0].prompt or "", written


def main() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prompt, written = answer_first(Path(sys.argv[1]), Path(sys.argv[2]))
    print(f"prompt  {prompt}")
    print(f"answer  {written!r}")
    print("(the demo's model is random: what counts here is that it loads and writes)")


if __name__ == "__main__":
    main()
