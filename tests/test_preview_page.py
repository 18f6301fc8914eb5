"""The preview's page in a real browser: what can be switched, and that nothing is loaded or injected."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser

from pages import Opened, open_page
from swiftalign.data.targets import KINDS
from swiftalign.previews.html import render_page
from swiftalign.previews.strips import Panel, Shape, Strip

HOSTILE = "<img src=x onerror=window.hit=1>"
CLOSING = "</script><script>window.hit=1</script><!--"
REPLAY = {"steps": [{"name": "rotate", "degrees": -3.2}], "boxes_as_quads": False, "left_out": []}

SHAPES = (
    Shape("bbox", HOSTILE, ((0.1, 0.1), (0.5, 0.5))),
    Shape("quad", CLOSING, ((0.6, 0.1), (0.9, 0.2), (0.8, 0.5), (0.5, 0.4)), "clipped", "clipped: 80% visible"),
    Shape("line", "wire & 'rope'", ((0.1, 0.9), (0.5, 0.6), (0.9, 0.9))),
    Shape("point", "handle", ((0.25, 0.5),)),
    Shape("polygon", "lake", ((0.5, 0.5), (0.7, 0.6), (0.9, 0.5), (0.8, 0.9), (0.6, 0.9))),
    Shape("bbox", "gone", ((-0.2, 0.8), (0.1, 0.8), (0.1, 0.9), (-0.2, 0.9)), "dropped", "dropped: 33% visible"),
)


def strip(row: int) -> Strip:
    def panel(title: str, shade: int, **more: object) -> Panel:
        return Panel(title, np.full((60, 80, 3), shade, np.uint8), (800, 600), SHAPES, **more)  # type: ignore[arg-type]

    done = {"operations": ("rotate -3.2°",), "left_out": ("hflip: the row says left or right",), "replay": REPLAY}
    panels = (panel("original", 200), panel("epoch 0", 120, **done), panel("epoch 1", 40, **done, faults=(HOSTILE,)))
    return Strip(row, Path(f"/data/images/{CLOSING.replace('/', '')}.png"), panels)


@pytest.fixture(scope="module")
def html() -> str:
    return render_page([strip(0), strip(1)], f"config.yaml {HOSTILE}")


@pytest.fixture
def opened(browser: Browser, html: str, tmp_path: Path) -> Iterator[Opened]:
    file = tmp_path / "preview.html"
    file.write_text(html, encoding="utf-8")
    with open_page(browser, file) as page:
        yield page


def test_every_image_has_its_targets_over_it(opened: Opened) -> None:
    assert opened.visible("figure") == opened.visible("figure img") == opened.visible("figure svg") == 6
    assert opened.page.locator("svg > g").count() == 6 * len(SHAPES)
    sides = opened.page.locator("figure img").first.evaluate("node => [node.naturalWidth, node.naturalHeight]")
    assert sides == [80, 60]
    image, drawing = (opened.page.locator(f"figure {name}").first.bounding_box() for name in ("img", "svg"))
    assert image == drawing


def test_a_box_lies_where_its_numbers_say(opened: Opened) -> None:
    points = opened.page.locator("g.bbox.kept polygon.stroke").first.get_attribute("points")
    assert points == "80,60 400,60 400,300 80,300"


def test_labels_and_numbers_keep_their_size_where_images_grow(opened: Opened) -> None:
    def sizes(name: str) -> list[float]:
        boxes = (each.bounding_box() for each in opened.page.locator(name).all())
        return [box["height"] for box in boxes if box]

    before = {name: sizes(name) for name in ("figure img", "text.label", "circle.dot")}
    opened.page.locator("#size").fill("600")
    assert min(after / then for after, then in zip(sizes("figure img"), before["figure img"], strict=True)) > 1.5
    for name in ("text.label", "circle.dot"):
        assert sizes(name) == pytest.approx(before[name], abs=1.5)


def test_a_point_is_a_dot_and_a_polygon_a_closed_outline_with_numbers(opened: Opened) -> None:
    dot = opened.page.locator("g.point.kept circle.stroke").first
    assert [dot.get_attribute(name) for name in ("cx", "cy")] == ["200", "300"]
    assert opened.page.locator("g.point").first.locator("text:not(.label)").count() == 0
    fill, ring = (
        opened.page.locator(f"g.point circle.{name}").first.evaluate(
            f"node => [getComputedStyle(node).fill, getComputedStyle(node).{what}]"
        )
        for name, what in (("stroke", "stroke"), ("casing", "stroke"))
    )
    assert fill == ["rgb(191, 57, 137)"] * 2
    assert ring == ["none", "rgba(255, 255, 255, 0.69)"]
    lake = opened.page.locator("g.polygon").first
    assert lake.locator("polygon.stroke").get_attribute("points") == "400,300 560,360 720,300 640,540 480,540"
    assert lake.locator("text.number").all_text_contents() == ["1", "2", "3", "4", "5"]


def test_only_the_kinds_that_occur_have_a_switch(opened: Opened, tmp_path: Path) -> None:
    panel = Panel("original", np.zeros((60, 80, 3), np.uint8), (800, 600), (Shape("point", "", ((0.5, 0.5),)),))
    file = tmp_path / "points.html"
    file.write_text(render_page([Strip(0, Path("a.png"), (panel,))], ""), encoding="utf-8")
    page = opened.context.new_page()
    page.goto(file.as_uri())
    assert page.locator("#kinds input").evaluate_all("all => all.map(one => one.id)") == ["kind-point", "kind-label"]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_target_can_be_switched_off_and_on(kind: str, opened: Opened) -> None:
    others = {*KINDS} - {kind}
    before = opened.visible(f"g.{kind} .stroke")
    opened.page.locator(f"#kind-{kind}").uncheck()
    assert opened.visible(f"g.{kind} .stroke") == 0
    assert all(opened.visible(f"g.{other} .stroke") for other in others)
    opened.page.locator(f"#kind-{kind}").check()
    assert opened.visible(f"g.{kind} .stroke") == before > 0


def test_labels_can_be_switched_off(opened: Opened) -> None:
    assert opened.visible("text.label") == 6 * len(SHAPES)
    opened.page.get_by_label("labels").uncheck()
    assert opened.visible("text.label") == 0
    assert opened.visible("g .stroke") == 6 * len(SHAPES)


def test_variants_can_be_switched_off(opened: Opened) -> None:
    opened.page.get_by_label("epoch 0").uncheck()
    assert opened.page.locator("figure:visible").evaluate_all("all => all.map(one => one.dataset.title)") == [
        "original",
        "epoch 1",
        "original",
        "epoch 1",
    ]


def shown_source(opened: Opened, figure: int) -> str | None:
    return opened.page.locator("figure").nth(figure).locator("img").get_attribute("src")


def test_the_original_can_take_a_variants_place(opened: Opened) -> None:
    original, variant = shown_source(opened, 0), shown_source(opened, 1)
    assert original != variant
    button = opened.page.get_by_role("button", name="Original", exact=True).first
    button.click()
    assert (shown_source(opened, 1), button.get_attribute("aria-pressed")) == (original, "true")
    assert shown_source(opened, 2) not in (original, variant)
    button.click()
    assert (shown_source(opened, 1), button.get_attribute("aria-pressed")) == (variant, "false")


def test_all_originals_can_take_their_variants_places(opened: Opened) -> None:
    opened.page.get_by_role("button", name="Show all originals").click()
    assert len({shown_source(opened, figure) for figure in range(6)}) == 1


def test_everything_can_be_reached_and_switched_by_keyboard(opened: Opened) -> None:
    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate("document.activeElement.id") == "kind-bbox"
    opened.page.keyboard.press("Space")
    assert opened.visible("g.bbox .stroke") == 0
    reached = []
    for _ in range(20):
        opened.page.keyboard.press("Tab")
        reached.append(opened.page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    kinds = [f"kind-{kind}" for kind in (*KINDS[1:], "label")]
    switches = [*kinds, "variant-original", "variant-epoch-0", "variant-epoch-1", "all", "size"]
    assert reached == [*switches, *["Original", "Copy replay"] * 4, *reached[len(switches) + 8 :]]
    opened.page.get_by_role("button", name="Original", exact=True).first.focus()
    opened.page.keyboard.press("Enter")
    assert shown_source(opened, 1) == shown_source(opened, 0)


def test_the_replay_is_copied(opened: Opened) -> None:
    opened.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened.page.get_by_role("button", name="Copy replay").first.click()
    opened.page.get_by_role("button", name="Copied").wait_for()
    assert json.loads(opened.page.evaluate("navigator.clipboard.readText()")) == REPLAY
    assert opened.page.get_by_role("status").text_content() == "replay of row 0, epoch 0, copied"


def test_where_a_page_may_not_use_the_clipboard_the_replay_is_copied_the_old_way(
    opened: Opened, browser: Browser, html: str
) -> None:
    page = opened.context.new_page()
    page.route("http://preview.test/", lambda route: route.fulfill(body=html, content_type="text/html; charset=utf-8"))
    page.goto("http://preview.test/")
    assert page.evaluate("navigator.clipboard === undefined")
    page.get_by_role("button", name="Copy replay").first.click()
    page.get_by_role("button", name="Copied").wait_for()
    opened.context.grant_permissions(["clipboard-read"])
    opened.page.bring_to_front()
    assert json.loads(opened.page.evaluate("navigator.clipboard.readText()")) == REPLAY


def test_where_nothing_can_be_copied_the_replay_is_shown_to_copy(opened: Opened) -> None:
    page = opened.page
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.evaluate("document.execCommand = () => false")
    page.get_by_role("button", name="Copy replay").first.click()
    assert json.loads(page.locator("dialog textarea").input_value()) == REPLAY
    page.keyboard.press("Escape")
    assert opened.visible("dialog") == 0


def test_hostile_labels_and_names_stay_text(opened: Opened) -> None:
    page = opened.page
    words = page.locator("text.label").all_text_contents()
    assert words[0] == HOSTILE
    assert words[1] == f"{CLOSING} · clipped: 80% visible"
    assert page.locator("#heading").text_content() == f"config.yaml {HOSTILE}"
    assert page.locator(".fault").first.text_content() == HOSTILE
    assert page.locator("img").count() == 6
    assert page.locator("script").count() == 2


def test_what_is_drawn_is_also_told_in_words(opened: Opened) -> None:
    told = opened.page.locator("svg").first.get_attribute("aria-label")
    assert told is not None
    assert told.endswith("; line wire & 'rope'; point handle; polygon lake; bbox gone dropped: 33% visible")
    assert opened.page.locator(".left").first.text_content() == "not applied: hflip: the row says left or right"


def test_injected_markup_would_neither_run_nor_load(opened: Opened) -> None:
    """The page's own policy holds where escaping would have failed."""
    page = opened.page
    with page.expect_event("requestfailed") as blocked:
        page.evaluate(
            "document.body.insertAdjacentHTML('beforeend', '<img src=http://preview.test/a.png onerror=hit=1>')"
        )
    assert blocked.value.failure == "csp"
    opened.requests.remove("http://preview.test/a.png")  # asked for, and not sent
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'hit = 1'}))")
    assert page.evaluate("window.hit") is None
    assert len(opened.said) == 3
    assert all("Content Security Policy" in line for line in opened.said)
    opened.said.clear()


def test_colours_follow_the_readers_scheme(browser: Browser, html: str, tmp_path: Path) -> None:
    file = tmp_path / "preview.html"
    file.write_text(html, encoding="utf-8")
    colours = {}
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)  # type: ignore[arg-type]
        page.goto(file.as_uri())
        style = "getComputedStyle(document.body)"
        colours[scheme] = page.evaluate(f"[{style}.backgroundColor, {style}.color]")
        page.close()
    assert colours == {
        "light": ["rgb(255, 255, 255)", "rgb(31, 35, 40)"],
        "dark": ["rgb(13, 17, 23)", "rgb(240, 246, 252)"],
    }


def test_the_page_names_no_address(html: str) -> None:
    own = html.replace("http://www.w3.org/2000/svg", "")
    assert "http:" not in own
    assert "https:" not in own
    assert not any(f"%{name}%" in own for name in ("data", "style", "script"))


def test_texts_are_shown_as_text(browser: Browser, tmp_path: Path) -> None:
    learned = f'[{{"bbox_2d": [1, 2, 3, 4], "label": "{HOSTILE}"}}]'
    panel = Panel("as it is learned", np.zeros((60, 80, 3), np.uint8), (80, 60), (), read=CLOSING, learned=learned)
    html = render_page([Strip(0, Path("a.png"), (panel,))], "", "Rows as they are learned")
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    assert page.title() == page.locator("h1").inner_text() == "Rows as they are learned"
    assert page.locator("pre.learned").inner_text() == learned
    assert not page.locator("pre.read").is_visible()
    page.get_by_text("What the model reads").click()
    assert page.locator("pre.read").inner_text() == CLOSING
    assert page.evaluate("window.hit") is None
    page.close()
