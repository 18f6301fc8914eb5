"""Tables and figure of ``docs/methods.md``, from the lines that ``benchmarks/methods.py`` has logged.

    python benchmarks/methods_report.py

Replaces what stands between the page's markers; the prose around them stays.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib

from methods import AUGMENTATIONS, METHODS, ROWS, TUNING_SEED, logged
from swiftalign.demo.recovery import KINDS, mean_accuracy

matplotlib.use("agg")
from matplotlib import pyplot

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, FIGURE = DOCS / "methods.md", DOCS / "methods.svg"
# Two-sided 95% of Student's t, by degrees of freedom.
T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}

Lines = list[dict[str, Any]]


def interval(values: Iterable[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95% interval; nan of a single value."""
    found = list(values)
    if len(found) < 2:
        return found[0], float("nan")
    return statistics.mean(found), T95[len(found) - 1] * statistics.stdev(found) / len(found) ** 0.5


def told(values: Iterable[float]) -> str:
    """In percent, as ``87.1 ± 1.2``."""
    mean, half = interval(values)
    return f"{100 * mean:.1f}" if half != half else f"{100 * mean:.1f} ± {100 * half:.1f}"


def select(lines: Lines, **wanted: Any) -> Lines:
    return [line for line in lines if all(line[name] == value for name, value in wanted.items())]


def table(lines: Lines, base: dict[str, Any], names: Iterable[str], column: str) -> Iterator[str]:
    """A row for each method or augmentation, and for each size of the training set."""
    yield f"| {column} | rows | boxes | quads | lines | original images | parameters | rate | s |"
    yield "|---|---|---|---|---|---|---|---|---|"
    shifted, original = base["scores"]["shifted"], base["scores"]["original"]
    before = " | ".join(f"{100 * shifted[f'{kind}_acc']:.1f}" for kind in KINDS)
    yield f"| before | 0 | {before} | {100 * mean_accuracy(original):.1f} | 0 | | |"
    for rows, count in ROWS.items():
        for name in names:
            found = select(lines, rows=rows, **{column: name})
            if column == "augmentation":
                found = select(found, method="modules_to_save")
            else:
                found = select(found, augmentation="none")
            if not found:
                continue
            by_kind = " | ".join(told(line["scores"]["shifted"][f"{kind}_acc"] for line in found) for kind in KINDS)
            kept = told(mean_accuracy(line["scores"]["original"]) for line in found)
            seconds = statistics.median(line["seconds"] for line in found)
            yield (
                f"| {name} | {count} | {by_kind} | {kept} | {found[0]['parameters']:,} | {found[0]['rate']:g} "
                f"| {seconds:.0f} |"
            )


def draw(lines: Lines, base: dict[str, Any]) -> None:
    """Accuracies of every run as dots, their means as bars, by method; before training as a dashed line."""
    panels: list[tuple[str, Callable[[dict[str, Any]], float], float]] = [
        (f"{title} images", lambda line, name=name: mean_accuracy(line["scores"][name]), mean_accuracy(before))
        for title, name, before in (
            ("new camera's", "shifted", base["scores"]["shifted"]),
            ("original", "original", base["scores"]["original"]),
        )
    ]
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
    methods = [name for name in METHODS if select(lines, method=name, augmentation="none")]
    for axis, (title, value, before) in zip(axes, panels, strict=True):
        for place, method in enumerate(methods):
            for offset, (rows, colour) in zip((-0.18, 0.18), zip(ROWS, ("C0", "C1"), strict=True), strict=True):
                values = [value(line) for line in select(lines, method=method, rows=rows, augmentation="none")]
                if values:
                    axis.barh(place + offset, statistics.mean(values), 0.34, color=colour, alpha=0.4)
                    axis.plot(values, [place + offset] * len(values), ".", color=colour, markersize=4)
        axis.axvline(before, color="grey", linestyle="--")
        axis.set(title=title, xlim=(0, 1), xlabel="mean accuracy of boxes, quads and lines")
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].invert_yaxis()
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colour, alpha=0.4) for colour in ("C0", "C1")]
    axes[1].legend(handles, [f"{count} rows" for count in ROWS.values()], loc="lower right")
    pyplot.rcParams["svg.hashsalt"] = "methods"
    figure.savefig(FIGURE, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    every = logged()
    base = next((line for line in every if line.get("base")), None)
    if base is None:
        raise SystemExit("no run is logged yet: python benchmarks/methods.py --model FOLDER")
    lines = [line for line in every if line.get("seed", TUNING_SEED) != TUNING_SEED]
    text = PAGE.read_text(encoding="utf-8")
    for marker, made in (
        ("methods", table(lines, base, METHODS, "method")),
        ("augmentation", table(lines, base, AUGMENTATIONS, "augmentation")),
    ):
        pattern = rf"(<!-- {marker} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda found, made=made: f"{found[1]}{chr(10).join(made)}\n{found[2]}", text, flags=re.S)
    PAGE.write_text(text, encoding="utf-8")
    draw(lines, base)


if __name__ == "__main__":
    main()
