"""Tables and figure of ``docs/cameras.md``, from the lines that ``benchmarks/cameras.py`` has logged.

    python benchmarks/cameras_report.py

Replaces what stands between the page's markers; the prose around them stays.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import matplotlib

from cameras import (
    CHECKPOINTS,
    FRONTIER,
    HELD_OUT,
    KNOWN,
    LAMPLIGHT,
    LOG,
    OTHERS,
    PLAIN,
    SCALES,
    TURNED,
    TURNED_KNOWN,
    VARIANTS,
    is_of_today,
)
from common import with_tables
from comparison import (
    ROWS,
    STEPS,
    Line,
    Lines,
    differences,
    interval,
    logged,
    select,
    told,
    told_difference,
)
from swiftalign.demo.recovery import KINDS, mean_accuracy

matplotlib.use("agg")
from matplotlib import pyplot

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, FIGURE = DOCS / "cameras.md", DOCS / "cameras.svg"

BLACK = "rotate 12, black"
FILLS = tuple(name for name in VARIANTS if name.startswith("rotate 12") and name != BLACK)
AUGMENTATIONS = tuple(name for name, settings in VARIANTS.items() if "augmentation" in settings)
KEEPING = ("replay 10%", "replay 25%", "replay 25%, longer", "rate 0.0003", "rate 0.0001")
COLUMNS = (*KINDS.values(), "mean", "known camera", "other cameras", "turned scenes")

Scores = dict[str, dict[str, float]]


def values_of(line: Line) -> list[float]:
    """A value for each of the columns."""
    scores: Scores = line["scores"]
    kinds = [scores[LAMPLIGHT][f"{kind}_acc"] for kind in KINDS]
    others = statistics.mean(mean_accuracy(scores[name]) for name in OTHERS)
    return [
        *kinds,
        *(mean_accuracy(scores[name]) for name in (LAMPLIGHT, KNOWN)),
        others,
        mean_accuracy(scores[TURNED]),
    ]


def levels(base: Line, lines: Lines) -> Iterator[str]:
    """Mean accuracies before and after training without any of the variants."""
    names = (LAMPLIGHT, KNOWN, *OTHERS, TURNED)
    yield f"| | rows | {' | '.join(names)} | seeds |"
    yield "|---|--:|" + "--:|" * (len(names) + 1)
    yield f"| before training | | {' | '.join(told([mean_accuracy(base['scores'][name])]) for name in names)} | |"
    for rows, count in ROWS.items():
        found = select(lines, variant=PLAIN, rows=rows)
        cells = (told(mean_accuracy(line["scores"][name]) for line in found) for name in names)
        yield f"| {PLAIN} | {count:,} | {' | '.join(cells)} | {len(found)} |"


def table_of_differences(
    lines: Lines,
    names: Iterable[str],
    reference: str,
    columns: Iterable[str] = COLUMNS,
    values: Callable[[Line], list[float]] = values_of,
) -> Iterator[str]:
    """Of each variant's runs from the reference's with the same rows and seed."""
    heads = tuple(columns)
    yield f"| variant | rows | {' | '.join(heads)} | seeds |"
    yield "|---|--:|" + "--:|" * (len(heads) + 1)
    for rows, count in ROWS.items():
        for name in names:
            found = differences(
                select(lines, variant=name, rows=rows), select(lines, variant=reference, rows=rows), values
            )
            if found:
                yield f"| {name} | {count:,} | {' | '.join(map(told_difference, found))} | {len(found[0])} |"


def by_camera(line: Line) -> list[float]:
    return [mean_accuracy(line["scores"][name]) for name in OTHERS]


def stopped(line: Line) -> Scores:
    """The scores of the checkpoint that is best on the held-out rows of both cameras."""
    checkpoints: list[tuple[Scores, Scores]] = [(line["held_out"], line["scores"])]
    checkpoints += [(scores, scores) for scores in line["stopped"].values()]
    return max(checkpoints, key=lambda each: sum(mean_accuracy(each[0][name]) for name in HELD_OUT))[1]


Ways = dict[str, dict[int, Scores]]


def ways_of(lines: Lines, rows: str) -> Ways:
    """Ways to keep more of the known camera: by name, the scores by seed."""
    runs = {name: select(lines, variant=name, rows=rows) for name in (PLAIN, *KEEPING)}
    ways: Ways = {name: {line["seed"]: line["scores"] for line in found} for name, found in runs.items()}
    for name in FRONTIER:
        followed = [line for line in runs[name] if "scaled" in line and rows == "large"]
        if followed:
            for scale in map(str, reversed(SCALES)):
                ways[f"{name}, scale {scale}"] = {line["seed"]: line["scaled"][scale] for line in followed}
            for step in map(str, CHECKPOINTS):
                ways[f"{name}, step {step} of {STEPS}"] = {line["seed"]: line["stopped"][step] for line in followed}
            ways[f"{name}, stopped early"] = {line["seed"]: stopped(line) for line in followed}
    return ways


def kept_and_lost(ways: Ways, way: str) -> tuple[list[float], list[float], list[float]]:
    """Of a way: accuracies with lamplight, their differences from plain, and accuracies with the known camera."""
    scores = ways[way]
    new = [mean_accuracy(each[LAMPLIGHT]) for each in scores.values()]
    change = [
        mean_accuracy(each[LAMPLIGHT]) - mean_accuracy(ways[PLAIN][seed][LAMPLIGHT])
        for seed, each in scores.items()
        if seed in ways[PLAIN]
    ]
    return new, change, [mean_accuracy(each[KNOWN]) for each in scores.values()]


def table_of_ways(lines: Lines) -> Iterator[str]:
    """What each way keeps of the known camera, and what it costs."""
    yield "| way | rows | lamplight | against plain | known camera | seeds |"
    yield "|---|--:|--:|--:|--:|--:|"
    for rows, count in ROWS.items():
        ways = ways_of(lines, rows)
        for way in ways:
            new, change, known = kept_and_lost(ways, way)
            if new:
                against = told_difference(change) if way != PLAIN else ""
                yield f"| {way} | {count:,} | {told(new)} | {against} | {told(known)} | {len(new)} |"


def draw(lines: Lines) -> None:
    """The frontier of what is kept of the known camera and what is recovered of the new one, with many rows."""
    ways = ways_of(lines, "large")
    figure, axis = pyplot.subplots(figsize=(8, 5), layout="constrained")

    def point(way: str, **style: object) -> tuple[float, float]:
        new, _, known = kept_and_lost(ways, way)
        (x, dx), (y, dy) = interval(known), interval(new)
        axis.errorbar(100 * x, 100 * y, 100 * dy, 100 * dx, capsize=2, **style)
        return 100 * x, 100 * y

    for colour, name in zip(("C0", "C1"), FRONTIER, strict=True):
        path = [point(way, color=colour, alpha=0.5) for way in ways if way.startswith(f"{name}, scale")]
        path.insert(0, point(name, color=colour, fmt="o", label=name))
        axis.plot(*zip(*path, strict=True), ".-", color=colour, label=f"{name}, averaged with the base (--scale)")
        early = f"{name}, stopped early"
        point(early, color=colour, fmt="s", mfc="none", label=early)
    others = (name for name in KEEPING if name not in FRONTIER and ways[name])
    for colour, name in zip(("C2", "C3", "C4", "C5"), others, strict=False):
        point(name, color=colour, fmt="D", label=name)
    axis.set(xlabel="kept: accuracy with the known camera, %", ylabel="recovered: accuracy with lamplight, %")
    axis.legend(fontsize="small")
    axis.grid(alpha=0.3)
    pyplot.rcParams["svg.hashsalt"] = "cameras"
    figure.savefig(FIGURE, metadata={"Date": None})
    pyplot.close(figure)


def table_of_turned(base: Line) -> Iterator[str]:
    """What the model locates in upright and in turned scenes before it is trained."""
    yield "| scenes, before training | upright | turned by 6 to 12 degrees |"
    yield "|---|--:|--:|"
    for camera, sets in (("known camera", (KNOWN, TURNED_KNOWN)), (LAMPLIGHT, (LAMPLIGHT, TURNED))):
        cells = (told([mean_accuracy(base["scores"][name])]) for name in sets)
        yield f"| {camera} | {' | '.join(cells)} |"


def tables(base: Line, lines: Lines) -> dict[str, Iterable[str]]:
    """The page's tables, by the names of their places."""
    return {
        "levels": levels(base, lines),
        "fills": table_of_differences(lines, FILLS, BLACK),
        "augmentation": table_of_differences(lines, AUGMENTATIONS, PLAIN),
        "cameras": table_of_differences(lines, ("colours", "mild colours"), PLAIN, OTHERS, by_camera),
        "turned": table_of_turned(base),
        "ways": table_of_ways(lines),
    }


def split() -> tuple[Line, Lines]:
    """The line of the model before training, and those of the runs."""
    base, *lines = logged(LOG)
    return base, [line for line in lines if is_of_today(line)]


def main() -> None:
    base, lines = split()
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), tables(base, lines)), encoding="utf-8")
    draw(lines)


if __name__ == "__main__":
    main()
