"""Tables and figure of ``docs/methods.md``, from the lines that ``benchmarks/methods.py`` has logged.

    python benchmarks/methods_report.py

Replaces what stands between the page's markers; the prose around them stays.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
from scipy.stats import t as student

from methods import AUGMENTATIONS, METHODS, RATES, ROWS, TUNING_SEED, Lines, best_rates, logged, rates_tried
from swiftalign.demo.recovery import KINDS, mean_accuracy

matplotlib.use("agg")
from matplotlib import pyplot

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, FIGURE = DOCS / "methods.md", DOCS / "methods.svg"

COLUMNS = (*KINDS.values(), "mean", "known camera")

Line = dict[str, Any]
Finder = Callable[[Lines, str, str], Lines]


def by_method(lines: Lines, method: str, rows: str) -> Lines:
    return select(lines, method=method, rows=rows, augmentation="none")


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


def differences(runs: Lines, others: Lines) -> list[list[float]]:
    """Of the columns' accuracies, one for each seed that both have."""
    mine, theirs = ({line["seed"]: accuracies_of(line) for line in lines} for lines in (runs, others))
    pairs = [zip(mine[seed], theirs[seed], strict=True) for seed in sorted(mine.keys() & theirs.keys())]
    return [list(column) for column in zip(*([one - other for one, other in pair] for pair in pairs), strict=True)]


def is_sure(values: Iterable[float]) -> bool:
    """Whether their mean's interval is on one side of zero."""
    mean, half = interval(values)
    return abs(mean) > half


def table_of_differences(lines: Lines, title: str, names: Iterable[str], reference: str, find: Finder) -> Iterator[str]:
    """Of each run from the reference's with the same rows and seed; in bold what is sure."""
    yield f"| {title} | rows | {' | '.join(COLUMNS)} | seeds |"
    yield "|---|--:|" + "--:|" * (len(COLUMNS) + 1)
    for rows, count in ROWS.items():
        for name in names:
            found = differences(find(lines, name, rows), find(lines, reference, rows)) if name != reference else []
            if found:
                cells = (f"**{told(values, '+')}**" if is_sure(values) else told(values, "+") for values in found)
                yield f"| {name} | {count:,} | {' | '.join(cells)} | {len(found[0])} |"


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
    methods = [name for name in METHODS if select(lines, method=name, augmentation="none")]
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


def filled(text: str, every: Lines) -> str:
    """The page, with its tables made anew from the log."""
    base, lines = split(every)
    made = {
        "methods": table(lines, base),
        "differences": table_of_differences(lines, "method", METHODS, "modules_to_save", by_method),
        "augmentation": table_of_differences(lines, "augmentation", AUGMENTATIONS, "none", by_augmentation),
        "rates": table_of_rates(every),
    }
    for marker, rows in made.items():
        before, opening, rest = text.partition(f"<!-- {marker} -->\n")
        _, closing, after = rest.partition("<!-- end -->")
        if not closing:
            raise SystemExit(f"{PAGE} has no place for a table: <!-- {marker} --> ... <!-- end -->")
        text = "".join([before, opening, *(f"{row}\n" for row in rows), closing, after])
    return text


def split(every: Lines) -> tuple[Line, Lines]:
    """The model before training, and the runs that are compared: each method at the rate that the search found."""
    base, *runs = every
    best = best_rates(runs)
    return base, [line for line in runs if line["seed"] != TUNING_SEED and line["rate"] == best[line["method"]]]


def main() -> None:
    every = logged()
    if len(every) < 2:
        raise SystemExit("no run is logged yet: python benchmarks/methods.py")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), every), encoding="utf-8")
    base, lines = split(every)
    draw(lines, base)


if __name__ == "__main__":
    main()
