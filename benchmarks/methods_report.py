"""Tables and figure of ``docs/methods.md``, from the lines that ``benchmarks/methods.py`` has logged.

    python benchmarks/methods_report.py

Replaces what stands between the page's markers; the prose around them stays.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import matplotlib

from common import with_tables
from comparison import ROWS, Line, Lines, differences, logged, select, told, told_difference
from methods import LOG, METHODS, RATES, TUNING_SEED, best_rates, rates_tried
from swiftalign.demo.recovery import KINDS, mean_accuracy

matplotlib.use("agg")
from matplotlib import pyplot

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, FIGURE = DOCS / "methods.md", DOCS / "methods.svg"

COLUMNS = (*KINDS.values(), "mean", "known camera")


def by_method(lines: Lines, method: str, rows: str) -> Lines:
    return select(lines, method=method, rows=rows)


def accuracies_of(line: Line) -> list[float]:
    """Of boxes, quads, lines and their mean with the new camera, and the mean with the known one."""
    shifted, original = line["scores"]["shifted"], line["scores"]["original"]
    return [*(shifted[f"{kind}_acc"] for kind in KINDS), mean_accuracy(shifted), mean_accuracy(original)]


def table(lines: Lines, base: Line) -> Iterator[str]:
    """A row for each method, and for each size of the training set."""
    yield f"| method | rows | {' | '.join(COLUMNS)} | parameters | rate | CPU s | seeds |"
    yield "|---|--:|" + "--:|" * (len(COLUMNS) + 4)
    yield f"| before training | | {' | '.join(told([value]) for value in accuracies_of(base))} | | | | |"
    for rows, count in ROWS.items():
        for method in METHODS:
            found = by_method(lines, method, rows)
            if found:
                first, seeds = found[0], len(found)
                used = [line["cpu_seconds"] for line in select(found, device=base["device"])]  # others take other times
                seconds = f"{statistics.median(used):.0f}" if used else ""
                columns = zip(*map(accuracies_of, found), strict=True)
                trained = f"{first['parameters']:,} | {first['rate']:g} | {seconds} | {seeds}"
                yield f"| {method} | {count:,} | {' | '.join(map(told, columns))} | {trained} |"


def table_of_differences(lines: Lines, methods: Iterable[str], reference: str) -> Iterator[str]:
    """Of each method's runs from the reference's with the same rows and seed."""
    yield f"| method | rows | {' | '.join(COLUMNS)} | seeds |"
    yield "|---|--:|" + "--:|" * (len(COLUMNS) + 1)
    for rows, count in ROWS.items():
        for method in methods:
            if method != reference:
                others = by_method(lines, reference, rows)
                found = differences(by_method(lines, method, rows), others, accuracies_of)
                if found:
                    yield f"| {method} | {count:,} | {' | '.join(map(told_difference, found))} | {len(found[0])} |"


def table_of_rates(lines: Lines) -> Iterator[str]:
    """The search for each method's rate: mean accuracies of one run each."""
    yield f"| method | {' | '.join(f'{rate:g}' for rate in RATES)} |"
    yield "|---|" + "--:|" * len(RATES)
    for method in METHODS:
        tried = rates_tried(lines, method)
        cells = (f"{100 * tried[rate]:.1f}" if rate in tried else "" for rate in RATES)
        marked = (
            f"**{cell}**" if tried.get(rate) == max(tried.values()) else cell
            for rate, cell in zip(RATES, cells, strict=True)
        )
        yield f"| {method} | {' | '.join(marked)} |"


def draw(lines: Lines, base: Line) -> None:
    """Accuracies of every run as dots, their means as bars, by method; before training as a dashed line."""
    panels: list[tuple[str, Callable[[Line], float], float]] = [
        (f"{title} images", lambda line, name=name: mean_accuracy(line["scores"][name]), mean_accuracy(before))
        for title, name, before in (
            ("new camera's", "shifted", base["scores"]["shifted"]),
            ("known camera's", "original", base["scores"]["original"]),
        )
    ]
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
    methods = [name for name in METHODS if select(lines, method=name)]
    for axis, (title, value, before) in zip(axes, panels, strict=True):
        for place, method in enumerate(methods):
            for offset, (rows, colour) in zip((-0.18, 0.18), zip(ROWS, ("C0", "C1"), strict=True), strict=True):
                values = [value(line) for line in by_method(lines, method, rows)]
                if values:
                    axis.barh(place + offset, statistics.mean(values), 0.34, color=colour, alpha=0.4)
                    axis.plot(values, [place + offset] * len(values), ".", color=colour, markersize=4)
        axis.axvline(before, color="grey", linestyle="--")
        axis.set(title=title, xlim=(0, 1.03), xlabel="mean accuracy of boxes, quads and lines")
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].invert_yaxis()
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colour, alpha=0.4) for colour in ("C0", "C1")]
    figure.legend(handles, [f"{count:,} rows" for count in ROWS.values()], loc="outside lower center", ncols=2)
    pyplot.rcParams["svg.hashsalt"] = "methods"
    figure.savefig(FIGURE, metadata={"Date": None})
    pyplot.close(figure)


def tables(every: Lines) -> dict[str, Iterable[str]]:
    """The page's tables, by the names of their places."""
    base, lines = split(every)
    return {
        "methods": table(lines, base),
        "differences": table_of_differences(lines, METHODS, "modules_to_save"),
        "rates": table_of_rates(every),
    }


def split(every: Lines) -> tuple[Line, Lines]:
    """The model before training, and the runs that are compared: each method at the rate that the search found."""
    base, *runs = every
    best = best_rates(runs)
    return base, [line for line in runs if line["seed"] != TUNING_SEED and line["rate"] == best[line["method"]]]


def main() -> None:
    every = logged(LOG)
    if len(every) < 2:
        raise SystemExit("no run is logged yet: python benchmarks/methods.py")
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), tables(every)), encoding="utf-8")
    base, lines = split(every)
    draw(lines, base)


if __name__ == "__main__":
    main()
