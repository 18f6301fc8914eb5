"""Plans, problems, runs, checkpoints and exports as tables for people, and plans as JSON for scripts."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from swiftalign.cli.terminal import new_table, print_table, tell
from swiftalign.files import short_path
from swiftalign.model.tree import Kind, Model
from swiftalign.plan.plan import TuningPlan
from swiftalign.problems import SPOKEN, Problem, counted, size_text
from swiftalign.speed.cards import GIB
from swiftalign.speed.what_fits import WhatFits

if TYPE_CHECKING:
    from swiftalign.checkpoint.choose import Chosen
    from swiftalign.checkpoint.verify import Verification
    from swiftalign.config.sections import Config
    from swiftalign.exports.export import ExportReport
    from swiftalign.previews.drift import DriftReport

_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def plan_json(plan: TuningPlan, problems: Iterable[Problem]) -> dict[str, Any]:
    """What ``inspect-params --json`` prints: the plan, its optimizer groups in short, and the problems."""
    return {
        **{name: value for name, value in plan.to_json().items() if name not in ("groups", "saved", "trainables")},
        "modules_to_save": list(plan.saved),
        "optimizer_groups": [
            {**asdict(group), "parameters": len(group.parameters), "numel": _numel(plan, group.parameters)}
            for group in plan.groups
        ],
        "checkpoint_bytes": plan.checkpoint_bytes,
        "findings": [problem.to_json() for problem in problems],
    }


def _numel(plan: TuningPlan, names: Iterable[str]) -> int:
    wanted = set(names)
    return sum(item.numel for item in plan.trainables if item.parameter in wanted)


def print_plan(plan: TuningPlan, modules: Model, console: Console) -> None:
    """Components, modules, optimizer groups and what a checkpoint holds."""
    tell(
        console,
        Text.assemble(("model   ", "dim"), f"{short_path(plan.model)}  ({plan.model_type}, {plan.dtype})"),
        hang=8,
    )
    if plan.swift.reason:
        chosen = f"{plan.swift.model_type} with template {plan.swift.template}, by {plan.swift.reason}"
        tell(console, Text.assemble(("type    ", "dim"), chosen), hang=8)
    tell(console, Text.assemble(("method  ", "dim"), plan.method), hang=8)
    components = new_table("component", "total", "trainable", "share")
    for name, count in plan.components.items():
        share = _share(count.trainable, count.total)
        components.add_row(SPOKEN[name], f"{count.total:,}", f"{count.trainable:,}", share)
    components.add_section()
    total, trainable = plan.total_parameters, plan.trainable_parameters
    components.add_row("all", f"{total:,}", f"{trainable:,}", _share(trainable, total), style="bold")
    groups = new_table("component", "tensors", "parameters", "rate", "weight decay")
    parts = {item.parameter: SPOKEN[item.component] for item in plan.trainables}
    for group in plan.groups:
        numbers = str(len(group.parameters)), f"{_numel(plan, group.parameters):,}"
        # What lies in no component shares the groups of the LLM.
        members = sorted({parts[name] for name in group.parameters}) if group.component != "all" else ["all"]
        groups.add_row(" and ".join(members), *numbers, f"{group.learning_rate:g}", f"{group.weight_decay:g}")
    tables = {"Components": components, "Modules": _modules(plan, modules), "Optimizer groups": groups}
    for title, table in tables.items():
        tell(console, Text(f"\n{title}", style="bold"))
        print_table(table, console)
    most = "at most " if plan.ranks_may_shrink else ""
    size = f"{most}{size_text(plan.checkpoint_bytes)}, besides optimizer state"
    tell(console, Text.assemble(("\ncheckpoint  ", "dim"), f"{len(plan.tensors)} tensors, {size}"), hang=12)
    schedule = plan.schedule
    run = "steps are known once data.train is named"
    if schedule.steps is not None:
        rows = f"{schedule.train_rows:,} rows, " if schedule.train_rows is not None else ""
        epochs = f" ({schedule.epochs:.3g} epochs)" if schedule.epochs is not None else ""
        run = f"{rows}{schedule.global_batch} per step: {schedule.steps:,} steps{epochs}"
    tell(console, Text.assemble(("run         ", "dim"), run), hang=12)


def print_phases(runs: Iterable[tuple[Config, TuningPlan]], console: Console) -> None:
    """A row for each phase: its data, length, rates and augmentation."""
    table = new_table("phase", "rows", "steps", "epochs", "rates", "augmentation")
    for config, plan in runs:
        steps, epochs = plan.schedule.steps, plan.schedule.epochs
        rows = "-" if plan.schedule.train_rows is None else f"{plan.schedule.train_rows:,}"
        told = ("-" if steps is None else f"{steps:,}", "-" if epochs is None else f"{epochs:.4g}")
        table.add_row(config.phase, rows, *told, _rates(plan), config.custom.augmentation_in_words)
    tell(console, "\nPhases", style="bold")
    print_table(table, console)


def phase_line(config: Config, plan: TuningPlan) -> str:
    """A phase's data, length, rates and augmentation in a line."""
    schedule, names = plan.schedule, ", ".join(Path(source.path).name for source in config.data.train)
    return (
        f"{config.phase}: {schedule.train_rows:,} rows of {names}, {schedule.steps:,} steps, "
        f"{schedule.epochs:.4g} epochs, rates {_rates(plan)}, augmentation {config.custom.augmentation_in_words}"
    )


def _rates(plan: TuningPlan) -> str:
    return ", ".join(f"{SPOKEN[name]} {rate:g}" for name, rate in plan.trained_rates.items()) or "the optimizer's own"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}%" if whole else "-"


def _modules(plan: TuningPlan, modules: Model) -> Table:
    """A row per module that trains, stacks of layers as one row, then what of each component stays frozen."""
    table = new_table("module", "kind", "total", "trainable", "share", "dtype", "rate")
    rates = {name: group.learning_rate for group in plan.groups for name in group.parameters}
    stacks = defaultdict(list)
    for item in plan.trainables:
        stacks[_stacked(item.module, modules)].append(item)
    for name, items in stacks.items():
        first, layers = items[0], {item.module for item in items}
        total = sum(w.numel for layer in layers for w in modules.by_name[layer].weights)
        trainable = sum(item.numel for item in items)
        label = f"{name}  ({len(layers)} layers)" if len(layers) > 1 else name
        rate = f"{rates[first.parameter]:g}" if first.parameter in rates else "-"
        share = _share(trainable, total)
        table.add_row(label, first.how, f"{total:,}", f"{trainable:,}", share, first.dtype, rate)
    trained = {item.module for item in plan.trainables if item.how == "whole"}
    for component, numbers in plan.components.items():
        frozen = numbers.total - sum(
            w.numel for m in modules for w in m.weights if m.name in trained and modules.component(m.name) == component
        )
        if frozen:
            rest = f"rest of the {SPOKEN[component]}"
            table.add_row(rest, "frozen", f"{frozen:,}", "0", "0.00%", plan.dtype, "-", style="dim")
    return table


def _stacked(name: str, model: Model) -> str:
    """A module's name with ``*`` for the number of a layer in a stack: the layers of a stack are shown as one row."""
    parts = name.split(".")
    for place, part in enumerate(name.split(".")):
        parent = model.by_name.get(".".join(name.split(".")[:place]))
        if part.isdigit() and parent is not None and parent.kind is Kind.MODULE_LIST:
            parts[place] = "*"
    return ".".join(parts)


def print_verification(result: Verification, console: Console, *, keys: bool = False) -> None:
    """A checkpoint's modules and findings; with ``keys``, the merger's tensors one by one."""
    place = _with_reason(result.checkpoint.path, result.checkpoint.chosen)
    tell(console, Text.assemble(("checkpoint  ", "dim"), place), hang=12)
    tell(console, Text.assemble(("expected    ", "dim"), result.expectation), hang=12)
    if result.state:
        tell(console, Text.assemble(("state       ", "dim"), result.state), hang=12)
    weights = result.checkpoint.weights
    if weights.beside:
        files = " and ".join(file.name for file in weights.files if file.parent != weights.gathered)
        tell(console, Text.assemble(("read        ", "dim"), f"{files}, as one adapter"), hang=12)
    if not result.values_read:
        unread = "not checked for NaN, infinity and zeros: --deep reads them all"
        tell(console, Text.assemble(("values      ", "dim"), unread), hang=12)
    if keys:
        table = new_table("key", "shape", "dtype")
        for info in result.aligner:
            table.add_row(info.name, str(list(info.shape)), info.dtype)
    else:
        table = new_table("module", "expected", "found", "moved", "max change")
        for row in result.modules:
            # Of a whole model, only what differs from the expected, or has moved.
            if result.checkpoint.weights.kind != "model" or row.expected != row.found or row.max_change:
                counts = ("-" if count is None else str(count) for count in (row.expected, row.found, row.moved))
                table.add_row(row.module, *counts, "-" if row.max_change is None else f"{row.max_change:.3g}")
    if table.rows:
        print_table(table, console)
    print_findings(result.findings, console)
    verdict = "sound" if result.ok else "not sound"
    count = len(result.checkpoint.weights.infos)
    tell(console, Text(f"{verdict}: {count} tensors", style="bold green" if result.ok else "bold red"))


def print_export(report: ExportReport, console: Console) -> None:
    """What an export wrote, and where."""
    lines = {
        "wrote": f"{short_path(report.output)}  ({size_text(report.total_bytes)} in {report.seconds:.0f} s)",
        "from": _with_reason(report.checkpoint, report.chosen),
        "changed": f"{len(report.changed)} tensors by {report.method}, {report.copied} are the base's own",
    }
    if report.scale != 1:
        lines["scale"] = f"{report.scale:g} of the way from the base to the trained values"
    if report.rounded:
        lines["rounded"] = f"{len(report.rounded)} trained tensors equal the base: the change was rounded away"
    if report.notes:
        lines["note"] = "; ".join(report.notes)
    if report.linked:
        lines["linked"] = ", ".join(report.linked)
    if report.max_logit_difference is not None:
        lines["logits"] = f"differ by at most {report.max_logit_difference:.3g} from base with adapter, in float32"
    for name, text in lines.items():
        tell(console, Text.assemble((f"{name:12}", "dim"), text), hang=12)


def _with_reason(checkpoint: Path, chosen: Chosen) -> str:
    """A checkpoint's path, and why it was taken where the user did not name it."""
    return short_path(checkpoint) + (f"  ({chosen.reason})" if chosen.reason else "")


def print_findings(findings: Iterable[Problem], console: Console, *, allowed: Iterable[str] = ()) -> None:
    """Findings, the worst first, each with its hint."""
    order = ("error", "warning", "note")
    for finding in sorted(findings, key=lambda item: order.index(item.severity)):
        let_through = finding.severity == "error" and finding.code in set(allowed)
        label = "allowed" if let_through else finding.severity
        where = f"{finding.where}: " if finding.where else ""
        head = Text.assemble((f"{label} [{finding.code}] ", _STYLES.get(label, "yellow")), where + finding.message)
        tell(console, head)
        if finding.advice.strip():
            tell(console, textwrap.indent(finding.advice.strip("\n"), "  "), hang=4, style="dim")


def print_what_fits(found: WhatFits, console: Console, *, phase: str | None = None) -> None:
    """A row for each way of spreading a run over GPUs, and for each setting; what a run takes is marked."""
    title = f"What fits: {phase}" if phase else "What fits"
    many = f"{found.processes} x " if found.processes > 1 else ""
    card = f"{many}{found.card.name}, {found.card.memory / GIB:.0f} GiB"
    of = f"  {card}, batches of {found.batch}, at most {found.longest:,} tokens per row"
    tell(console, Text.assemble((f"\n{title}", "bold"), of))
    if found.ways:
        parts = ("weights GiB", "trained GiB", "batch GiB", "peak GiB")
        ways = new_table("sharding", *parts, "largest batch", "s per step", "rows/s", "")
        for way in found.ways:
            memory = way.memory
            sizes = (f"{each / GIB:.1f}" for each in (memory.weights, memory.trained, memory.activations, way.peak))
            step = "-" if way.step_seconds is None else f"{way.step_seconds:.2f}"
            speed = "-" if way.rows_per_second is None else f"{way.rows_per_second:.1f}"
            mark = "chosen" if way.chosen else ""
            ways.add_row(way.sharding, *sizes, str(way.largest_batch or "none"), step, speed, mark)
        print_table(ways, console)
        tell(console, f"auto takes {found.auto}: {found.why}\n")
    table = new_table("kernels", "checkpointing", "peak GiB", "largest batch", "s per step", "epoch", "")
    for each in found.settings:
        step = "-" if each.step_seconds is None else f"{each.step_seconds:.2f}"
        epoch = "-" if each.epoch_seconds is None else str(timedelta(seconds=round(each.epoch_seconds)))
        mark = "chosen" if each.chosen else ""
        peak, most = f"{each.peak / GIB:.1f}", str(each.largest_batch or "none")
        table.add_row(each.kernels, "yes" if each.gradient_checkpointing else "no", peak, most, step, epoch, mark)
    print_table(table, console)
    for estimate in found.estimates:
        tell(console, f"note  {estimate}", style="dim")


def print_drift(report: DriftReport, console: Console) -> None:
    """A row for each operation and each kind of target on which it has an effect."""
    counts = ("samples", "targets", "clipped", "dropped", "inflated")
    table = new_table("operation", "kind", *counts, "mean", "max", "drift", texts=2)
    for effect in report.effects:
        if effect.kind == "all" or effect.drift or effect.inflated:
            whole = (effect.samples, effect.targets, effect.clipped, effect.dropped)
            sizes = ["-"] * 3
            if effect.mean_inflation is not None:
                sizes = [f"{effect.inflated:,}", f"{effect.mean_inflation:.2f}", f"{effect.max_inflation:.2f}"]
            cells = [effect.operation, effect.kind, *(f"{count:,}" for count in whole), *sizes]
            style = "bold" if effect.operation == effect.kind == "all" else None
            table.add_row(*cells, f"{100 * effect.drift:.2f}%", style=style)
    tell(console, f"{report.rows:,} rows, {report.samples:,} samples", style="dim")
    print_table(table, console)
    for operation, reasons in report.left_out.items():
        for reason, count in reasons.items():
            tell(console, f"not applied  {operation}: {reason} ({counted(count, 'sample')})")
    if report.bypassed:
        tell(console, f"bypassed     {counted(report.bypassed, 'sample')}, left as they are because of bypass_prob")
    if report.passed_over:
        tell(console, f"left out     {report.passed_over:,} rows in ms-swift's layout, whose images are not moved")
    if report.seconds_per_image is not None:
        tell(console, f"time         {1000 * report.seconds_per_image:.1f} ms to open and augment an image")
