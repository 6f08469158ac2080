"""The pages in a real browser, without network."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ctglip.pages import answers, compare, index, pairs, quality, report
from ctglip.pages.viewer import PlacedMap, make_viewer

pytestmark = pytest.mark.slow
MODULES: dict[str, Any] = {
    "report_page": report, "scan_page": answers, "quality_page": quality, "pairs_page": pairs, "index_page": index,
    "compare_page": compare,
}  # fmt: skip

CONTRAST = """
() => {
  const channel = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
  const numbers = c => (c.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const ground = node => {
    for (; node; node = node.parentElement) {
      const c = numbers(getComputedStyle(node).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const bad = [];
  for (const node of document.querySelectorAll("main *, header *, footer *")) {
    const own = [...node.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || node.closest(".swatch") || !node.getClientRects().length) continue;
    const style = getComputedStyle(node);
    const ink = numbers(node instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [luminance(ink), luminance(ground(node))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) bad.push([node.textContent.trim(), (a + 0.05) / (b + 0.05)]);
  }
  return bad;
}
"""


@pytest.fixture(params=list(MODULES))
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"{request.param}.html"
    path.write_text(MODULES[request.param].render(request.getfixturevalue(request.param)), encoding="utf-8")
    return path


@pytest.fixture
def opened(browser: Any, file: Path) -> Iterator[Any]:
    """A function that opens the file offline; at the end nothing may have been requested or complained about."""
    trouble: list[str] = []
    contexts = []

    def opener(**options: Any) -> Any:
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("requestfailed", lambda request: trouble.append(request.url[:200]))
        page.on(
            "request", lambda request: trouble.append(request.url[:200]) if request.url.startswith("http") else None
        )
        page.goto(file.as_uri())
        return page

    yield opener
    for context in contexts:
        context.close()
    assert trouble == []


def test_page_opens_offline_with_every_picture_drawn(opened: Any) -> None:
    page = opened()
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert page.locator("h1").is_visible()


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_page_never_scrolls_sideways(opened: Any, width: int) -> None:
    page = opened(viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_text_has_contrast_in_light_and_dark(opened: Any) -> None:
    grounds = set()
    for scheme in ("light", "dark"):
        page = opened(color_scheme=scheme)
        assert page.evaluate(CONTRAST) == []
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2


def test_keyboard_reaches_the_content_first(opened: Any) -> None:
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#main"
    assert page.locator(".skip").bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")


def test_paper_is_white_whatever_the_screen(opened: Any) -> None:
    page = opened(color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"


@pytest.fixture(scope="module")
def viewed(scan_page: answers.AnswersPage, phantom: tuple[np.ndarray, np.ndarray], tmp_path_factory: Any) -> Path:
    """A scan page with a viewer, from the installed ipyniivue."""
    pytest.importorskip("ipyniivue", reason="ipyniivue is not installed")
    hu, labels = phantom
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    heat = np.where(labels == 1, 0.5, 0.0)
    heat[13, 22, 30] = 1.0
    maps = [PlacedMap("Liver: Hepatic steatosis", "Liver", heat, affine)]
    view = make_viewer(hu, affine, labels, {"Liver": {1}, "Spleen": {2}}, maps=maps)
    path = tmp_path_factory.mktemp("viewer") / "scan.html"
    path.write_text(answers.render(dataclasses.replace(scan_page, viewer=view)), encoding="utf-8")
    return path


@pytest.fixture
def ready(browser: Any, viewed: Path) -> Iterator[Any]:
    """The scan page with its viewer running; nothing may have come from the network or gone wrong."""
    trouble: list[str] = []
    context = browser.new_context(offline=True, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.on("console", lambda message: trouble.extend([message.text] * (message.type in ("error", "warning"))))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda request: trouble.extend([request.url] * request.url.startswith("http")))
    page.goto(viewed.as_uri())
    page.wait_for_selector("html[data-viewer]", state="attached", timeout=60_000)
    assert page.locator("html").get_attribute("data-viewer") == "ready"
    yield page
    context.close()
    assert [line for line in trouble if "GPU stall" not in line] == []


def drawn(page: Any) -> np.ndarray:
    """What the viewer's canvas shows, once two frames in a row are alike."""
    before = b""
    for _ in range(20):
        page.wait_for_timeout(150)
        now = page.locator("#viewer canvas").screenshot()
        if now == before:
            break
        before = now
    return np.asarray(Image.open(io.BytesIO(before)).convert("RGB")).astype(int)


def test_viewer_draws_the_scan_and_its_outlines(ready: Any) -> None:
    outlined = drawn(ready)
    assert len(np.unique(outlined)) > 10
    assert not ready.locator("#stills").is_visible()
    ready.get_by_label("Show outlines").uncheck()
    bare = drawn(ready)
    assert (outlined != bare).any(axis=-1).sum() > 200
    ready.get_by_label("Show outlines").check()
    assert (drawn(ready) == outlined).all()


def red(pixels: np.ndarray) -> int:
    """How many pixels are clearly red to yellow."""
    return int(((pixels[..., 0] - pixels[..., 2] > 80) & (pixels[..., 0] > 120)).sum())


def test_a_heat_map_is_laid_over_the_scan_and_taken_off_again(ready: Any) -> None:
    bare = drawn(ready)
    choice = ready.locator("select[name=map]")
    choice.select_option(label="Liver: Hepatic steatosis")
    heated = drawn(ready)
    assert red(heated) > red(bare) + 50
    assert "Liver" in ready.locator(".where").inner_text(), "the cross goes to the highest value"
    assert ready.get_by_role("button", name="Liver").get_attribute("aria-pressed") == "true"
    choice.select_option(label="none")
    assert red(drawn(ready)) <= red(bare) + 5


def test_heat_maps_of_the_stills_are_shown_and_hidden(browser: Any, viewed: Path) -> None:
    """Without any script."""
    context = browser.new_context(offline=True, java_script_enabled=False)
    page = context.new_page()
    page.goto(viewed.as_uri())
    still = page.locator(".layers").first
    shown = np.asarray(Image.open(io.BytesIO(still.screenshot())).convert("RGB")).astype(int)
    page.get_by_label("No heat maps").check()
    hidden = np.asarray(Image.open(io.BytesIO(still.screenshot())).convert("RGB")).astype(int)
    assert red(shown) > red(hidden) + 50
    page.get_by_label("Outline of the highest").check()
    outlined = np.asarray(Image.open(io.BytesIO(still.screenshot())).convert("RGB")).astype(int)
    assert red(hidden) + 20 < red(outlined) < red(shown)
    context.close()


def test_clicking_an_organ_shows_its_answers_and_goes_there(ready: Any) -> None:
    before = drawn(ready)
    button = ready.get_by_role("button", name="Liver")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert "Hepatic steatosis: 93" in ready.locator(".said").inner_text()
    assert "Liver" in ready.locator(".where").inner_text()
    assert "200 HU" in ready.locator(".where").inner_text()
    assert (drawn(ready) != before).any()
    ready.get_by_role("button", name="Spleen").click()
    assert "nothing was asked" in ready.locator(".said-of").inner_text()
    assert "Spleen, 100 HU" in ready.locator(".where").inner_text()


def test_viewer_shows_the_patients_right_on_the_left(ready: Any) -> None:
    canvas = ready.locator("#viewer canvas")
    box = canvas.bounding_box()
    ready.get_by_role("button", name="Liver").click()
    axial = drawn(ready)[:, : int(box["width"] / 3)]
    blue = (axial[..., 2] - axial[..., 0] > 60).nonzero()
    body = (axial.max(axis=-1) > 30).nonzero()
    assert blue[1].mean() < body[1].mean()


def test_window_and_sliders_work_from_the_keyboard(ready: Any) -> None:
    before = drawn(ready)
    ready.get_by_label("Window").select_option(index=2)
    assert (drawn(ready) != before).any()
    ready.get_by_label("Feet to head").focus()
    said = ready.locator(".where").inner_text()
    for _ in range(3):
        ready.keyboard.press("PageDown")
    assert ready.locator(".where").inner_text() != said


def test_paper_gets_the_still_pictures(ready: Any) -> None:
    ready.emulate_media(media="print")
    assert ready.locator("#stills").is_visible()
    assert not ready.locator("#viewer").is_visible()


def test_without_script_the_still_pictures_show(browser: Any, viewed: Path) -> None:
    context = browser.new_context(offline=True, java_script_enabled=False)
    page = context.new_page()
    page.goto(viewed.as_uri())
    assert page.locator("#stills img").first.is_visible()
    assert not page.locator("#viewer").is_visible()
    context.close()


def test_without_webgl_the_still_pictures_show(browser: Any, viewed: Path) -> None:
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null;")
    page.goto(viewed.as_uri())
    page.wait_for_selector("html[data-viewer=absent]", state="attached", timeout=60_000)
    assert page.locator("#stills img").first.is_visible()
    assert not page.locator("#viewer").is_visible()
    context.close()
