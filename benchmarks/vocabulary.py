"""What the real vocabulary of Qwen3-VL costs, beside the tiny one of the demo: reading it, and counting tokens of rows.

    python benchmarks/vocabulary.py --rows 5000 --rounds 3

CPU seconds of all threads, medians of rounds in which each measure alternates with its peer:

- reading the tokenizer, against transformers' AutoTokenizer;
- counting the tokens of a row, against encoding it by ms-swift's template, images included;
- the pass over the data with `max_length`, against the pass without it.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from swiftalign.config.sections import Config
from swiftalign.data.encoded import training_encoder
from swiftalign.data.encoding import encoding_of
from swiftalign.data.rows import Rows, open_images, sizes_of, with_images
from swiftalign.data.scan import read_data
from swiftalign.data.tokens import read_tokenizer
from swiftalign.demo.model import build_model

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from real_vocabulary import write_real_model

LABELS = ("光纤接头/未固定", "red box", "螺丝", "👩🏽‍🔧 technician", "挡风板/安装方向错误")
ENCODED = 100  # rows that ms-swift encodes, which takes longer
MOST = 4096  # tokens


def write_rows(path: Path, rows: int) -> None:
    """Rows of 1 to 20 boxes on an image of 640x480."""
    Image.new("RGB", (640, 480), (90, 120, 30)).save(path.with_name("1.png"))
    draws = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            corners = [(draws.randint(0, 300), draws.randint(0, 200)) for _ in range(draws.randint(1, 20))]
            boxes = [[x, y, x + draws.randint(5, 300), y + draws.randint(5, 200)] for x, y in corners]
            objects = [{"label": draws.choice(LABELS), "bbox_2d": box} for box in boxes]
            file.write(json.dumps({"images": ["1.png"], "objects": objects}, ensure_ascii=False) + "\n")


def compare(name: str, mine: Callable[[], Any], peer: Callable[[], Any], rounds: int, share: float = 1.0) -> None:
    """Print the median CPU seconds of both, and how many times those of the peer the first takes.

    Args:
        share: the part of the work of `mine` that `peer` does.
    """
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):  # the first round warms the disk cache
        for call, seconds in zip((mine, peer), taken, strict=True):
            begin = time.process_time()
            call()
            seconds.append(time.process_time() - begin)
    first, second = statistics.median(taken[0][1:]), statistics.median(taken[1][1:]) / share
    print(f"  {name:45} {first:7.2f} s {second:7.2f} s {first / second:7.3f}x")


def main() -> None:
    from transformers import AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "rows.jsonl", options.rows)
        for title, write in {"real vocabulary": write_real_model, "the demo's": build_model}.items():
            model = folder / title
            write(model)
            data = {"train": [str(folder / "rows.jsonl")]}
            plain, limited = (
                Config.model_validate({"model": {"path": str(model)}, "data": {**data, **more}})
                for more in ({}, {"max_length": MOST})
            )
            encoding, template = encoding_of(limited), training_encoder(limited).template
            rows = Rows([folder / "rows.jsonl"], writing=encoding.writing)
            known = [encoding.conversation(rows.row(index), [(640, 480)]) for index in range(len(rows))]
            texts = [row for row in known if row]
            images = open_images(rows.row(0))
            swift = [with_images(rows.row(i).to_swift(sizes_of(images), rows.writing), images) for i in range(ENCODED)]
            encoding.lengths(texts[:1])  # reads the tokenizer
            print(f"{title}: {sum(encoding.lengths(texts)):,} tokens in {len(texts):,} rows")
            file = model / "tokenizer.json"
            compare(
                "reading the tokenizer; transformers",
                lambda file=file: read_tokenizer(file),
                lambda model=model: AutoTokenizer.from_pretrained(model),
                options.rounds,
            )
            compare(
                f"tokens of {len(texts):,} rows; ms-swift's encoding",
                lambda encoding=encoding, texts=texts: encoding.lengths(texts),
                lambda template=template, swift=swift: [template.encode(json_row(row)) for row in swift],
                options.rounds,
                ENCODED / len(texts),
            )
            compare(
                f"the pass with max_length {MOST}; without",
                lambda limited=limited: read_data(limited, check_images=False),
                lambda plain=plain: read_data(plain, check_images=False),
                options.rounds,
            )


def json_row(row: dict[str, Any]) -> dict[str, Any]:
    """A copy of a row: ms-swift changes what it encodes."""
    return {**row, "messages": [dict(message) for message in row["messages"]], "images": list(row["images"])}


if __name__ == "__main__":
    main()
