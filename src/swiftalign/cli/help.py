"""Help pages: as wide as the terminal, with examples that can be pasted."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from typer.core import TyperCommand, TyperGroup

_WIDEST = 100  # columns in which a paragraph is easy to read; a pipe gets them, too
_BESIDE = 24  # columns of a name with its explanation beside it


class _Page:
    """What both kinds of command say of themselves."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["[OPTIONS]", *(usage_of(param) for param in _arguments(ctx))]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write("\n".join(_page(ctx)) + "\n")

    def get_short_help_str(self, limit: int = 0) -> str:
        """The first paragraph, whole."""
        help_text: str = getattr(self, "help", None) or ""
        return " ".join(help_text.partition("\n\n")[0].split())


class Command(_Page, TyperCommand):
    """A command whose help says the same words for the same things, and cuts none of them."""


class Group(_Page, TyperGroup):
    """The commands together."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["[OPTIONS]", "COMMAND", "[ARGS]..."]


def _arguments(ctx: Any) -> list[Any]:
    return [param for param in ctx.command.get_params(ctx) if param.param_type_name == "argument"]


def usage_of(param: Any) -> str:
    """An argument as the usage line has it: in brackets where it may be left out, with dots where there may be several.

    Typer would show braces, and the name of its type.
    """
    word = f"{param.metavar or param.name.upper()}{'...' if param.nargs == -1 else ''}"
    return word if param.required else f"[{word}]"


def _page(ctx: Any) -> Iterator[str]:
    width = min(shutil.get_terminal_size().columns, _WIDEST) if sys.stdout.isatty() else _WIDEST
    command = ctx.command
    pieces = " ".join(command.collect_usage_pieces(ctx))
    yield from _wrapped(f"Usage: {ctx.command_path} {pieces}", width, "", " " * 4)
    for paragraph in textwrap.dedent(command.help or "").strip().split("\n\n"):
        yield ""
        if paragraph.startswith("  "):
            # Broken lines of an example end as a shell wants it.
            *lines, last = _wrapped(paragraph.strip(), width - 2, "    ", "      ")
            yield from (f"{line} \\" for line in lines)
            yield last
        else:
            yield from _wrapped(paragraph, width, "  ", "  ")
    options = [param for param in command.get_params(ctx) if param.param_type_name == "option"]
    commands = getattr(command, "commands", {})
    lists = {
        "Arguments": [(usage_of(param), param.get_help_record(ctx)[1]) for param in _arguments(ctx)],
        "Options": [param.get_help_record(ctx) for param in options],
        "Commands": [(name, each.get_short_help_str()) for name, each in commands.items()],
    }
    for heading, rows in lists.items():
        if rows:
            yield from ("", f"{heading}:")
            yield from _explained(rows, width)
    if command.epilog:
        yield ""
        yield from _wrapped(command.epilog, width, "  ", "  ")


def _explained(rows: list[tuple[str, str]], width: int) -> Iterator[str]:
    """Names with their explanations beside them, or below where a name is long."""
    beside = min(max(len(name) for name, _ in rows), _BESIDE) + 4
    for name, told in rows:
        if len(name) + 4 > beside:
            yield f"  {name}"
            name = ""
        yield from _wrapped(told, width, f"  {name}".ljust(beside), " " * beside)


def _wrapped(text: str, width: int, first: str, rest: str) -> Iterable[str]:
    """Lines of a paragraph that break between words alone."""
    return textwrap.wrap(
        " ".join(text.split()),
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
