"""The input side of a run: rows per second that one core prepares, and the workers that a run needs.

    python benchmarks/loading.py --rows-a-second 12.3

Times rows as a loader's worker makes them, on one thread, with ms-swift's own template of a Qwen3-VL; "batch" also
concatenates their pixels in bfloat16, beside ms-swift's collator with a cast after it. The GPU's rows per second are
those that `benchmarks/train_gpu.py` measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from swift.dataset import LazyLLMDataset
from swift.model import get_processor
from swift.template import get_template
from transformers import AutoModelForImageTextToText

from swiftalign.augment.pipeline import Pipeline
from swiftalign.augment.rows import TrainingRows
from swiftalign.config.augmentation import AugmentationSection
from swiftalign.data.rows import Rows
from swiftalign.demo.model import build_model
from swiftalign.model.template import use_own_tokens
from swiftalign.worker.sync_free import SyncFreeCollator
from swiftalign.worker.workers import plan_loading, seconds_per_row
from train_gpu import build_data

ROWS, ROUNDS = 16, 5


def grounding_rows(source: Path, target: Path) -> Path:
    """The benchmark's messages as rows of this toolkit, whose targets move with their images."""
    lines = []
    for line in source.read_text().splitlines():
        row = json.loads(line)
        objects = json.loads(row["messages"][1]["content"])
        lines.append(json.dumps({"images": row["images"], "objects": objects, "coordinates": "relative1000"}))
    target.write_text("\n".join(lines) + "\n")
    return target


def cast(batch: dict[str, Any]) -> dict[str, Any]:
    return batch | {"pixel_values": batch["pixel_values"].to(torch.bfloat16)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows-a-second", type=float, required=True, help="that the GPU trains")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_model(folder / "model")
        template = get_template(get_processor(str(folder / "model"), model_type="qwen3_vl"))
        template.set_mode("train")
        template.padding_free = True
        template.model = model = AutoModelForImageTextToText.from_pretrained(
            str(folder / "model"), dtype=torch.bfloat16
        )
        use_own_tokens(template, json.loads((folder / "model/config.json").read_text()))
        pipeline = Pipeline(AugmentationSection(enabled=True, preset="progressive-3"))
        for kind in ("equal", "mixed"):
            build_data(folder / kind, kind, ROWS)
            rows = Rows([grounding_rows(folder / kind / "rows.jsonl", folder / f"{kind}.jsonl")])
            augmented = TrainingRows(rows, pipeline)
            encoded, both = (LazyLLMDataset(each, template.encode, strict=True) for each in (rows, augmented))
            stages = {
                "decode": (rows, list),
                "decode, encode": (encoded, list),
                "decode, encode, batch": (encoded, SyncFreeCollator(model, template.data_collator, keep_answers=True)),
                "the same, ms-swift's batch": (encoded, lambda batch: cast(template.data_collator(batch))),
                "decode, augment": (augmented, list),
                "decode, augment, encode": (both, list),
            }
            for stage, (made, collate) in stages.items():
                seconds = statistics.median(seconds_per_row(made, collate) for _ in range(ROUNDS))
                workers, _ = plan_loading(seconds, 1, 1 / options.rows_a_second, processes=1, cores=64)
                print(f"{kind:6} {stage:26} {1 / seconds:6.1f} rows/s per core, {workers} workers", flush=True)


if __name__ == "__main__":
    main()
