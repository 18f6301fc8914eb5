"""The recipes in ``configs/recipes/``, and the table of what they take in ``docs/recipes.md``.

    python benchmarks/recipes.py

A recipe is what ``swiftalign init`` writes for its model and rows of boxes, with the predicted memory and time as
comments. Predictions are those of ``inspect-params --gpu``, for batches of 4 rows of the assumed size, or of fewer
where 4 do not fit; what is installed on this machine does not matter.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from swiftalign.config.load import load_config
from swiftalign.init.recipes import write_config
from swiftalign.init.write import source_of
from swiftalign.model.families import find
from swiftalign.model.read import read
from swiftalign.plan.resolve import resolve
from swiftalign.speed.cards import GIB, named_card
from swiftalign.speed.choose import choose_for_card
from swiftalign.speed.what_fits import what_fits

ROOT = Path(__file__).resolve().parents[1]
FOLDER, PAGE = ROOT / "configs/recipes", ROOT / "docs/recipes.md"
MODELS = {
    "qwen3_vl_4b": "Qwen/Qwen3-VL-4B-Instruct",
    "qwen3_vl_8b": "Qwen/Qwen3-VL-8B-Instruct",
    "qwen3_vl_30b_a3b": "Qwen/Qwen3-VL-30B-A3B-Instruct",
    "qwen3_5_9b": "Qwen/Qwen3.5-9B",
    "qwen3_5_35b_a3b": "Qwen/Qwen3.5-35B-A3B",
}
CARDS = ("RTX 4090", "L40S", "A100", "H100", "H200")
BATCHES = (4, 2, 1)
METHOD = "modules_to_save"
# What was measured of a batch with the same settings and random weights: day, seconds, GiB, and the line of
# benchmarks/RESULTS.md.
MEASURED = {
    ("qwen3_vl_8b", "H200"): ("2026-11-28", "0.289", "35.6", "| 8B | one | 1 | 0.289 | 13.9 | 1 | 35.6 |"),
    ("qwen3_5_9b", "H200"): ("2026-11-28", "0.434", "36.8", "| Qwen3.5-9B | 0.434 | 0.429 | 36.8 | 37.6 |"),
}


@dataclass(frozen=True)
class Expected:
    """What a recipe is predicted to take on one card.

    Attributes:
        batch: rows per batch; 0 where not even one fits.
        checkpointing: whether that takes gradient checkpointing.
        gib: memory at most.
        seconds: per step of 16 rows.
    """

    batch: int
    checkpointing: bool = False
    gib: float = 0
    seconds: float = 0


def body(name: str) -> str:
    """A recipe as ``init`` writes it."""
    model, rows = MODELS[name], {"train": "data/train.jsonl", "val": "data/val.jsonl"}
    layers = read(source_of(model))
    text = write_config(model=model, method=METHOD, name=f"{name}.yaml", layers=layers, scored=["bbox"], **rows)
    return text.replace("$schema=", "$schema=../")


@cache
def expected(name: str, card: str) -> Expected:
    """What is predicted, by the first of `BATCHES` that fits."""
    for batch in BATCHES:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "recipe.yaml"
            file.write_text(body(name), encoding="utf-8")
            attention = f"model={{path: {MODELS[name]}, attention: sdpa}}"
            own = [attention, "data.train=[]", "data.val=[]", "training.max_steps=3000"]
            config = load_config([file], [*own, f"training.per_device_train_batch_size={batch}"])
        model = read(config.source)
        plan, choices, predictor = choose_for_card(config, model, resolve(config, model), named_card(card), [])
        assert predictor
        family = find(plan.model_type)
        kernels = "compiled" if family and family.compiles else "plain"
        for each in what_fits(config, plan, choices, predictor, assumed=True).settings:
            if each.kernels == kernels and each.largest_batch >= batch:
                assert each.step_seconds
                return Expected(batch, each.gradient_checkpointing, each.peak / GIB, each.step_seconds)
    return Expected(0)


def recipe(name: str) -> str:
    """The text of a recipe's file."""
    first, _, rest = body(name).partition("model: ")
    init = f"swiftalign init {name}.yaml --model {MODELS[name]} --method {METHOD}"
    head = f"# The same as '{init} --train FILE --val FILE' writes for rows of boxes.\n"
    head += (
        "# Expected on one card, predicted for images of 1024x768 "
        "(swiftalign docs recipes says how, and what was measured):\n"
    )
    for card in CARDS:
        found = expected(name, card)
        told = f"{found.gib:.1f} GiB, {found.seconds:.2f} s per step of 16 rows" if found.batch else "does not fit"
        if found.batch not in (0, BATCHES[0]):
            told += f", with --set training.per_device_train_batch_size={found.batch}"
        head += f"#   {card:8}  {told}\n"
    return f"{first}{head}model: {rest}"


def table() -> Iterator[str]:
    """The lines of the page's table."""
    yield "| model | card | rows per batch | checkpointing | peak GiB | seconds per step of 16 rows | |"
    yield "|---|---|--:|---|--:|--:|---|"
    for name, model in MODELS.items():
        for card in CARDS:
            found, how, cells = expected(name, card), "predicted", ["does not fit", "", "", ""]
            if found.batch:
                checkpointing = "yes" if found.checkpointing else "no"
                cells = [str(found.batch), checkpointing, f"{found.gib:.1f}", f"{found.seconds:.2f}"]
            if (name, card) in MEASURED:
                day, seconds, gib, _ = MEASURED[name, card]
                how += f"; measured on {card}, {day}: 4 x {seconds} s, {gib} GiB"
            yield f"| {' | '.join([model, card, *cells, how])} |"


def filled(page: str) -> str:
    """The page with its table as it is now."""
    text = "".join(f"{line}\n" for line in table())
    return re.sub(r"(?<=<!-- expected -->\n).*?(?=<!-- end -->)", lambda _: text, page, flags=re.DOTALL)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each in MODELS:
        (FOLDER / f"{each}.yaml").write_text(recipe(each), encoding="utf-8")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
