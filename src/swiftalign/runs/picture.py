"""Pictures of runs: loss, learning rates and, if they were measured, accuracies, of one run or of several together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from swiftalign.data.metrics import METRICS
from swiftalign.files import appearing
from swiftalign.runs.events import Curves, Event, curves_of

# Ten colours that are told apart by most colour-blind people, too.
_COLOURS = (
    *("#1f6f8b", "#d1495b", "#3c7a3c", "#8a5fbf", "#b0752a"),
    *("#0aa6a6", "#7a1f3d", "#8c8c1a", "#4b4b8f", "#6b6b6b"),
)


@dataclass
class _Line:
    points: Mapping[int, float]
    label: str
    colour: str
    dashed: bool = False
    dots: bool = False


@dataclass
class _Panel:
    name: str
    lines: list[_Line] = field(default_factory=list)

    def add(
        self, points: Mapping[int, float], label: str, colour: str = "", *, dots: bool, dashed: bool = False
    ) -> None:
        self.lines.append(_Line(points, label, colour or _COLOURS[len(self.lines) % len(_COLOURS)], dashed, dots))


def draw_run(path: Path, events: Iterable[Event], *, title: str) -> None:
    """Draw the logs of a run over its steps as a PNG."""
    loss, rate, accuracy = _Panel("loss"), _Panel("rate"), _Panel("accuracy")
    for name, points in curves_of(events).items():
        plain = name.removeprefix("eval_")
        if name in ("loss", "eval_loss"):
            loss.add(points, "training" if name == "loss" else "validation", dots=name != "loss")
        elif name.startswith("rate_"):
            rate.add(points, name.removeprefix("rate_"), dots=False)
        elif plain.endswith("_acc") and METRICS.get(plain):
            accuracy.add(points, plain, dots=True)
    _draw(path, [loss, rate, accuracy], title)


def draw_runs(path: Path, runs: Mapping[str, Curves]) -> None:
    """Draw the logs of several runs over their steps as a PNG: a colour for each run, a panel for each accuracy.

    Args:
        runs: the curves of each run, by its name.
    """
    panels = {"loss": _Panel("loss")}
    for (run, curves), colour in zip(runs.items(), _COLOURS * (1 + len(runs) // len(_COLOURS)), strict=False):
        for name, points in curves.items():
            plain = name.removeprefix("eval_")
            if name in ("loss", "eval_loss"):
                label = run if name == "loss" else f"{run}, validation"
                panels["loss"].add(points, label, colour, dots=name != "loss", dashed=name != "loss")
            elif name.startswith("rate_"):
                panel = panels.setdefault(name, _Panel(f"{name.removeprefix('rate_')} rate"))
                panel.add(points, run, colour, dots=False)
            elif plain.endswith("_acc") and METRICS.get(plain):
                panels.setdefault(plain, _Panel(plain)).add(points, run, colour, dots=True)
    _draw(path, [panels[name] for name in sorted(panels, key=lambda name: (name != "loss", name in METRICS))])


def _draw(path: Path, panels: Iterable[_Panel], title: str = "") -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [panel for panel in panels if panel.lines]
    figure = Figure(figsize=(6.4, 2.2 + 1.7 * len(panels)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    heights = [2.0 if panel.name == "loss" else 1.0 for panel in panels]
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, panel in zip(grid, panels, strict=True):
        for line in panel.lines:
            style, marker = "--" if line.dashed else "-", "o" if line.dots else None
            steps, values = zip(*sorted(line.points.items()), strict=True)
            label = _plain(line.label)
            axes.plot(steps, values, style, label=label, color=line.colour, linewidth=1.8, marker=marker, markersize=3)
        if len(panel.lines) > 1 or panel.name != "loss":
            axes.legend(frameon=False, fontsize="small")
        axes.set_ylabel(panel.name)
        accuracy = panel.name == "accuracy" or panel.name in METRICS
        axes.set_ylim((-0.03, 1.03) if accuracy else None)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_title(_plain(title))
    grid[-1].set_xlabel("step")
    with appearing(path) as part:
        figure.savefig(part, format="png")


def _plain(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar begins a formula, and labels that begin with _ are hidden."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")
