"""`swiftalign docs`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from swiftalign import shipped
from swiftalign.cli.app import AsJson, as_result, print_json
from swiftalign.cli.complete import page_names
from swiftalign.cli.terminal import new_table, open_console, print_table, tell
from swiftalign.problems import CHECKPOINT_CODES
from swiftalign.suggest import unknown


def docs(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="PAGE_OR_CODE",
            help="A page, a page with one of its headings (PAGE#HEADING), or the code of a problem.",
            autocompletion=page_names,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the pages of the documentation, show one of them, or say what the code of a problem means.

    The pages come with the package. A terminal shows a page through its pager; in a pipe it is plain Markdown.

    Exit codes: 0 = success, 2 = there is no such page or code.

    Examples:

      swiftalign docs

      swiftalign docs running

      swiftalign docs aligner-incomplete

      swiftalign docs data > data.md

    Next: 'swiftalign docs PAGE' shows a page, and 'swiftalign COMMAND --help' a command's options.
    """
    pages = shipped.pages()
    if name is None:
        told = {page: shipped.first_sentence(path.read_text(encoding="utf-8")) for page, path in pages.items()}
        addresses = {page: _address(page) for page in pages}
        if as_json:
            listed = [{"page": page, "about": told[page], "address": addresses[page]} for page in pages]
            print_json(as_result({"pages": listed}))
            return
        console, table = open_console(), new_table("page", "about")
        for page in pages:
            table.add_row(page, told[page])
        print_table(table, console)
        if site := next(filter(None, addresses.values()), None):
            tell(console, f"\non the web: {site.rpartition('/')[0]}")
        tell(console, "next: swiftalign docs PAGE, or swiftalign docs CODE for what a problem means")
        return
    text = _text_of(name)
    if as_json:
        print_json(as_result({"name": name, "text": text}))
    elif not sys.stdout.isatty():
        print(text)
    else:
        from rich.markdown import Markdown

        console = open_console()
        os.environ.setdefault("LESS", "FRX")  # colours, and no pager for what fits the screen
        with console.pager(styles=console.color_system is not None):
            console.print(Markdown(text, hyperlinks=False), width=min(console.width, 110))


def _text_of(name: str) -> str:
    """A page, a section of one, or what a problem's code means.

    Raises:
        SwiftalignError: there is no page, heading or code of this name.
    """
    pages, codes = shipped.pages(), shipped.codes()
    page, _, anchor = name.removeprefix("docs/").partition("#")
    code = anchor or page
    if code in codes and page.removesuffix(".md") in ("findings", code):
        severity, meaning = codes[code]
        parts = [f"`{code}` ({severity}): {meaning}.", *shipped.paragraphs_about(code)]
        if severity == "error" and code not in CHECKPOINT_CODES:
            parts.append(f"It can be accepted: `--allow {code}`.")
        return "\n\n".join(parts)
    path = pages.get(page.removesuffix(".md"))
    if path is None:
        about = f"{name}: no page and no problem has this name"
        raise unknown(page, [*pages, *codes], about, "'swiftalign docs' lists the pages")
    text = path.read_text(encoding="utf-8")
    if not anchor:
        return text.strip()
    section = shipped.section_of(text, anchor)
    if section is None:
        known = shipped.anchors_of(text)
        raise unknown(anchor, known, f"{name}: the page has no such heading", f"it has {', '.join(known)}")
    return section


def _address(page: str) -> str | None:
    """Where a page is on the web, if the installed package names its repository."""
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        links = metadata("swiftalign").get_all("Project-URL") or []
    except PackageNotFoundError:
        return None
    named = dict(link.split(", ", 1) for link in links)
    return f"{named['Repository'].rstrip('/')}/blob/main/docs/{page}.md" if "Repository" in named else None
