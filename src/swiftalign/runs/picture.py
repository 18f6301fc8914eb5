"""A picture of a run: loss, learning rates and, if they were measured, accuracies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from swiftalign.data.metrics import METRICS
from swiftalign.runs.events import Event

_COLOURS = ("#1f6f8b", "#d1495b", "#3c7a3c", "#8a5fbf", "#b0752a")


def draw_run(path: Path, events: Iterable[Event], *, title: str) -> None:
    """Draw the logs of a run over its steps as a PNG. If a resumed run logged a step again, the last log counts."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found: dict[str, dict[str, dict[int, float]]] = {name: defaultdict(dict) for name in ("loss", "rate", "accuracy")}
    for event in events:
        step = event.values.get("step")
        if event.kind != "log" or not isinstance(step, int):
            continue
        for name, value in event.values.items():
            plain = name.removeprefix("eval_")
            if name in ("loss", "eval_loss"):
                found["loss"]["training" if name == "loss" else "validation"][step] = value
            elif name.startswith("rate_"):
                found["rate"][name.removeprefix("rate_")][step] = value
            elif plain.endswith("_acc") and METRICS.get(plain):
                found["accuracy"][plain][step] = value
    panels = {name: lines for name, lines in found.items() if lines}
    figure = Figure(figsize=(6.4, 2.2 + 1.7 * len(panels)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    heights = [2.0 if name == "loss" else 1.0 for name in panels]
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (name, lines) in zip(grid, panels.items(), strict=True):
        for colour, (label, points) in zip(_COLOURS * 3, lines.items(), strict=False):
            marker = "o" if label == "validation" or name == "accuracy" else None
            steps, values = zip(*sorted(points.items()), strict=True)
            axes.plot(steps, values, label=label, color=colour, linewidth=1.8, marker=marker, markersize=3)
        if len(lines) > 1 or name != "loss":
            axes.legend(frameon=False, fontsize="small")
        axes.set_ylabel(name)
        axes.set_ylim((-0.03, 1.03) if name == "accuracy" else None)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_title(title)
    grid[-1].set_xlabel("step")
    figure.savefig(path)
