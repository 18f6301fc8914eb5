"""Pages opened in a real browser, and what they ask for and say."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, Request, sync_playwright


@contextmanager
def headless() -> Iterator[Browser]:
    """The system's Chromium, or playwright's own where it has been downloaded."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Opened:
    """The page, and what it asked for and said."""

    page: Page
    context: BrowserContext
    requests: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def visible(self, selector: str) -> int:
        return self.page.locator(f"{selector}:visible").count()


def watch(page: Page, context: BrowserContext) -> Opened:
    opened = Opened(page, context)

    def requested(request: Request) -> None:
        if not request.url.startswith("data:image/jpeg;base64,"):
            opened.requests.append(request.url)

    page.on("request", requested)
    page.on("console", lambda message: opened.said.append(message.text))
    page.on("pageerror", lambda error: opened.said.append(str(error)))
    return opened


@contextmanager
def open_page(browser: Browser, file: Path) -> Iterator[Opened]:
    """A page from a file; in the end it must have loaded nothing else, and must not have complained."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = watch(context.new_page(), context)
    opened.page.goto(file.as_uri())
    yield opened
    assert opened.requests == [file.as_uri()]
    assert opened.said == []
    assert opened.page.evaluate("window.hit") is None
    context.close()
