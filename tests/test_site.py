"""The documentation as a site: every page is built, every link leads somewhere, nothing is asked of other hosts."""

from __future__ import annotations

import functools
import http.server
import inspect
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort
from playwright.sync_api import Browser

import swiftalign
from docs_examples import ROOT
from pages import watch

REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


class Parts(HTMLParser):
    """What a page links to, what it loads, and the anchors in it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links, self.loaded, self.anchors = set[str](), set[str](), set[str]()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.add(values["href"])
        elif tag == "link":
            self.loaded.add(values["href"])
        if "src" in values:
            self.loaded.add(values["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=True)
    return folder


@pytest.fixture(scope="module")
def parts(site: Path) -> dict[Path, Parts]:
    return {page: Parts(page) for page in site.rglob("*.html")}


def test_every_page_of_docs_is_built(parts: dict[Path, Parts], site: Path) -> None:
    built = {page.relative_to(site).with_suffix("").as_posix() for page in parts}
    written = {page.relative_to(ROOT / "docs").with_suffix("").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert len(written) > 15
    assert built == written | {"index", "contributing", "changelog", "404"}


def test_every_link_within_the_site_leads_to_a_page_and_an_anchor(parts: dict[Path, Parts], site: Path) -> None:
    dead, checked = [], 0
    for page, found in parts.items():
        for link in found.links | found.loaded:
            address = urlsplit(link)
            if address.scheme or address.netloc:
                continue
            start = site if address.path.startswith("/") else page.parent
            target = Path(os.path.normpath(start / unquote(address.path).lstrip("/"))) if address.path else page
            target = target / "index.html" if target.is_dir() else target
            there = target.is_file() and target.is_relative_to(site)
            anchor = unquote(address.fragment)
            if not there or (anchor and target in parts and anchor not in parts[target].anchors):
                dead.append(f"{page.name}: {link}")
            checked += 1
    assert not dead
    assert checked > 1000


def test_links_out_of_docs_lead_to_files_of_the_repository(parts: dict[Path, Parts]) -> None:
    links = {link for found in parts.values() for link in found.links if link.startswith(f"{REPOSITORY}/")}
    paths = {re.fullmatch(r"/(blob|tree)/main/([^#]+)(#.*)?", link.removeprefix(REPOSITORY)) for link in links}
    assert len(paths) > 10
    kinds = {match[2]: match[1] for match in paths if match}
    assert len(kinds) > 10
    assert {path: "tree" if (ROOT / path).is_dir() else "blob" for path in kinds if (ROOT / path).exists()} == kinds


def test_nothing_is_loaded_from_another_host(parts: dict[Path, Parts], site: Path) -> None:
    loaded = {address for found in parts.values() for address in found.loaded}
    sheets = [sheet.read_text(encoding="utf-8") for sheet in site.rglob("*.css")]
    loaded |= {
        match[1] or match[2]
        for sheet in sheets
        for match in re.finditer(r"""url\(["']?([^"')]*)|@import ["']([^"']*)""", sheet)
    }
    assert len(loaded) > 10
    assert not [address for address in loaded if re.match(r"(?!data:)\w+:|//", address)]


def test_every_public_name_is_on_the_page_for_python(parts: dict[Path, Parts], site: Path) -> None:
    anchors = parts[site / "api.html"].anchors
    functions = {*swiftalign.__all__} - {"__version__"}
    assert {name for name in functions if f"swiftalign.{name}" not in anchors} == set()
    assert "<code>swiftalign.__version__</code>" in (site / "api.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted({*swiftalign.__all__} - {"__version__"}))
def test_every_public_function_tells_what_it_takes_returns_and_raises(name: str) -> None:
    function = getattr(swiftalign, name)
    text = inspect.getdoc(function) or ""
    takes, returns, raises = (
        re.search(rf"^{part}:\n((?:    .*\n?|\n)+)", text, re.MULTILINE) for part in ("Args", "Returns", "Raises")
    )
    assert takes
    assert re.findall(r"^    (\w+): ", takes[1], re.MULTILINE) == [*inspect.signature(function).parameters]
    assert returns
    assert raises or "None is raised" in returns[1]


def test_what_would_be_dead_or_missing_fails_the_build(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "docs").mkdir()
    dead = ["gone.md", "there.md#gone", "/there.md", "../gone.yaml", "gone.png"]
    (tmp_path / "docs/links.md").write_text(
        " ".join(f"[link]({each})" for each in ["there.md", "there.md#start", *dead])
    )
    (tmp_path / "docs/there.md").write_text("# Start\n")
    (tmp_path / "docs/forgotten.md").write_text("# Forgotten\n")
    made = {"docs_dir": str(tmp_path / "docs"), "site_dir": str(tmp_path / "site"), "plugins": []}
    config = load_config(str(ROOT / "mkdocs.yml"), nav=["links.md", "there.md"], **made)
    assert config.strict
    with pytest.raises(Abort, match="in strict mode"):
        build(config)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert {each for each in dead if sum(f"'{each}'" in message for message in told) == 1} == {*dead}
    [unlisted] = [message for message in told if "not included in the" in message]
    assert "- forgotten.md" in unlisted
    assert len(told) == len(dead) + 1


# -- in a browser ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site on a server of this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_pages_fit_the_screen_and_can_be_searched(address: str, browser: Browser, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    opened = watch(context.new_page(), context)
    page, failed = opened.page, list[str]()
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.on("response", lambda response: failed.append(response.url) if response.status >= 400 else None)
    for name in ("start.html", "operations.html"):
        page.goto(address + name, wait_until="networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate("document.body.dataset.mdColorScheme") == {"light": "default", "dark": "slate"}[scheme]
    if width < 1000:
        page.locator("label.md-header__button[for=__search]").click()
    page.locator("input.md-search__input").click()
    page.keyboard.type("posterize")
    result = page.locator("a.md-search-result__link", has_text="posterize").first
    result.wait_for()
    assert "operations.html" in str(result.get_attribute("href"))
    assert [each for each in opened.requests if not each.startswith(address)] == failed == opened.said == []
    context.close()
