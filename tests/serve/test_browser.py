"""The page in a real browser: drop, wait, look, ask; wide and narrow, light and dark, on paper, by keyboard."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image

from ctglip.serve.app import create_app
from ctglip.serve.work import work_on
from ctglip.store.tables import Store
from tests.pages.test_browser import CONTRAST, red
from tests.serve.conftest import Ward, make_ward

pytestmark = [pytest.mark.slow, pytest.mark.ci]
Opener = Callable[..., Any]
NOISE = ("GPU stall", "GL_INVALID_VALUE", "status of 422")
"""Of the graphics card, of a canvas that is being removed, and of a question that is not understood."""
UNNAMED = """
[...document.querySelectorAll('button, input, select, img')]
  .filter(n => !n.hidden && !n.ariaLabel && !n.alt && !n.textContent.trim() && !(n.labels && n.labels.length))
  .map(n => n.outerHTML.slice(0, 120))
"""


@pytest.fixture(scope="module")
def address(trained: tuple[Store, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Ward]]:
    """A server that listens, and whose worker is a thread."""
    pytest.importorskip("ipyniivue", reason="ipyniivue is not installed")
    ward = make_ward(tmp_path_factory.mktemp("browser"), [trained[1]], trained[0].path)
    server = uvicorn.Server(uvicorn.Config(create_app(ward.serving), port=0, log_level="critical"))
    threads = [
        threading.Thread(target=server.run, daemon=True),
        threading.Thread(target=worker, args=(ward,), daemon=True),
    ]
    for thread in threads:
        thread.start()
    while not server.started:
        threads[0].join(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}", ward
    ward.serving.ended.set()
    server.should_exit = True
    for thread in threads:
        thread.join(10)


def worker(ward: Ward) -> None:
    while not ward.serving.ended.wait(0.05):
        job = ward.place.jobs.claim()
        if job is not None:
            work_on(job, ward.place)


@pytest.fixture
def opened(browser: Any, address: tuple[str, Ward]) -> Iterator[Opener]:
    """Opens a page; at the end nothing may have come from elsewhere, or been complained about."""
    trouble: list[str] = []
    contexts = []

    def open_page(path: str = "/", wait: str = "home", **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: trouble.extend([message.text] * (message.type in ("error", "warning"))))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on(
            "request", lambda one: trouble.extend([one.url] * (not one.url.startswith((address[0], "blob:", "data:"))))
        )
        page.goto(address[0] + path)
        state(page, wait)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [line for line in trouble if not any(noise in line for noise in NOISE)] == []


def state(page: Any, wanted: str) -> None:
    page.wait_for_selector(f"html[data-page={wanted}]", state="attached", timeout=90_000)


@pytest.fixture(scope="module")
def scan_id(address: tuple[str, Ward], files: tuple[Path, Path]) -> str:
    _, ward = address
    found = ward.begin([files[0]], [files[1]])
    ward.post(f"/api/scans/{found}/start")
    while ward.get(f"/api/scans/{found}")["state"] != "ready":
        threading.Event().wait(0.1)
    return found


def drawn(page: Any) -> np.ndarray:
    """What the viewer's canvas shows, once two frames in a row are alike."""
    before = b""
    for _ in range(30):
        page.wait_for_timeout(150)
        now = page.locator(".canvas canvas").first.screenshot()
        if now == before:
            break
        before = now
    return np.asarray(Image.open(io.BytesIO(before)).convert("RGB")).astype(int)


def test_a_scan_is_dropped_read_and_asked(opened: Opener, files: tuple[Path, Path]) -> None:
    page = opened()
    assert page.get_by_role("button", name="Read this scan").is_disabled()
    page.get_by_label("Drop a scan: files").set_input_files(files[0])
    page.get_by_label("Organ masks, if you have them: files").set_input_files(files[1])
    page.get_by_role("button", name="Read this scan").click()
    state(page, "ready")
    page.keyboard.press("/")
    page.keyboard.type("liver: fatty liver")
    page.keyboard.press("Enter")
    page.wait_for_selector(".asked .finding")
    said = page.locator(".asked").inner_text()
    assert "%" in said
    assert "calibrated" in said
    assert "yes" not in said.lower().split()
    page.get_by_label("It is a sentence of my own").check()
    page.fill("#question", "liver: The liver is dark.")
    page.keyboard.press("Enter")
    page.wait_for_selector(".asked >> text=outside what was calibrated")
    page.fill("#question", "livr")
    page.get_by_label("It is a sentence of my own").uncheck()
    page.locator("#question").press("Enter")
    page.wait_for_selector(".asked [role=alert]")
    assert "liver" in page.locator(".asked [role=alert]").inner_text()
    page.get_by_role("button", name="Delete this scan").click()
    state(page, "home")


def test_a_draft_shows_what_speaks_against_it(opened: Opener, scan_id: str) -> None:
    page = opened()
    sentence = {
        "text": "The spleen is <b>enlarged</b>.",
        "affirmed": ["splenomegaly"],
        "fault": "it speaks of the spleen",
    }
    organ = {"organ": "liver", "sentences": [sentence], "remarks": ["It is cut off."], "reason": ""}
    missing = {"organ": "spleen", "sentences": [], "remarks": [], "reason": "The spleen is not in the scan."}
    draft = {"disclaimer": "No device.", "organs": [organ, missing], "impression": sentence["text"]}

    def writing(route: Any) -> None:
        answer = route.fetch()
        value = answer.json()
        for model in value["models"]:
            model["writes_reports"] = True
        route.fulfill(response=answer, json=value)

    page.route("**/api/server", writing)
    page.route("**/report?*", lambda route: route.fulfill(json=draft))
    page.reload()
    state(page, "home")
    page.evaluate(f"location.hash = '#/scan/{scan_id}'")
    state(page, "ready")
    page.locator("button[name=draft]").click()
    page.locator(".draft-of .sentence").wait_for()
    text = page.locator(".drafted").inner_text()
    for part in ("No device.", sentence["text"], sentence["fault"], "It is cut off.", missing["reason"]):
        assert part in text
    page.locator(".draft-of .sentence").click()
    page.wait_for_selector("button[data-organ=liver][aria-pressed=true]")


def test_a_scan_that_comes_after_it_was_left_stays_away(opened: Opener, scan_id: str) -> None:
    page = opened()
    late: list[Any] = []
    page.route("**/organs?*", lambda route: late.append(route))
    page.evaluate(f"location.hash = '#/scan/{scan_id}'")
    while not late:
        page.wait_for_timeout(50)
    page.evaluate("location.hash = '#/'")
    state(page, "home")
    for route in late:
        route.continue_()
    page.wait_for_timeout(1500)
    assert page.locator("h1").inner_text() == "Ask about a scan"


def test_a_heat_map_is_laid_over_the_scan_and_taken_off(opened: Opener, scan_id: str) -> None:
    page = opened(f"/#/scan/{scan_id}", "ready")
    page.get_by_role("button", name="liver", exact=True).click()
    page.wait_for_selector(".card .finding")
    assert "ml" in page.locator(".card").inner_text()
    bare = drawn(page)
    page.locator(".card .mapper").first.click()
    page.wait_for_selector(".mapper[aria-pressed=true]")
    assert red(drawn(page)) > red(bare) + 50
    page.locator(".card .mapper").first.click()
    page.wait_for_selector(".card .mapper[aria-pressed=false]")
    assert red(drawn(page)) <= red(bare) + 20


def test_windows_views_and_organs_are_chosen(opened: Opener, scan_id: str) -> None:
    page = opened(f"/#/scan/{scan_id}", "ready")
    before = drawn(page)
    page.keyboard.press("3")
    assert (drawn(page) != before).any()
    page.keyboard.press("v")
    page.wait_for_timeout(300)
    assert page.locator("select[name=view]").input_value() == "0"
    page.keyboard.press("o")
    page.keyboard.type("spl")
    shown = [one.inner_text() for one in page.locator(".organs button:visible").all()]
    assert shown == ["spleen"]
    box = page.locator(".canvas canvas").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.45, box["y"] + box["height"] * 0.5)
    page.wait_for_timeout(300)
    assert "HU" in page.locator(".at").inner_text()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_and_can_be_read(opened: Opener, scan_id: str, width: int, scheme: str) -> None:
    size = {"viewport": {"width": width, "height": 844}, "color_scheme": scheme}
    for path, wait in (("/", "home"), (f"/#/scan/{scan_id}", "ready"), ("/#/cohort", "cohort")):
        page = opened(path, wait, **size)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert page.evaluate(CONTRAST) == [], path
        assert page.locator("h1").count() == 1
        unnamed = page.evaluate(UNNAMED)
        assert unnamed == [], path


def test_the_reminder_is_on_every_page(opened: Opener, scan_id: str) -> None:
    for path, wait in (("/", "home"), (f"/#/scan/{scan_id}", "ready"), ("/#/cohort", "cohort")):
        assert "no number here is a diagnosis" in opened(path, wait).locator(".reminder").inner_text()


def test_paper_gets_still_pictures(opened: Opener, scan_id: str) -> None:
    page = opened(f"/#/scan/{scan_id}", "ready")
    page.emulate_media(media="print")
    assert page.locator(".print-only img").first.is_visible()
    assert not page.locator(".canvas").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_a_scan_without_organs_asks_for_masks(
    opened: Opener, address: tuple[str, Ward], files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path))
    page = opened()
    page.get_by_label("Drop a scan: files").set_input_files(files[0])
    page.get_by_role("button", name="Read this scan").click()
    state(page, "failed")
    assert "without masks" in page.locator("[role=alert]").inner_text()
    page.get_by_label("Give organ masks and try again: files").set_input_files(files[1])
    state(page, "ready")


def test_two_scans_are_asked_side_by_side(opened: Opener, address: tuple[str, Ward], scan_id: str) -> None:
    other = address[1].post("/api/cohort/s002/open", status=201)["id"]
    while address[1].get(f"/api/scans/{other}")["state"] != "ready":
        threading.Event().wait(0.1)
    page = opened(f"/#/beside/{scan_id}/m0/{other}/m0", "ready")
    assert page.locator(".canvas canvas").count() == 2
    page.fill("#question", "spleen: splenomegaly")
    page.locator("#question").press("Enter")
    page.wait_for_selector(".asked .column:nth-child(2) .finding")
    assert page.locator(".asked .value").count() == 2


def test_a_study_of_the_cohort_is_found_and_opened(opened: Opener) -> None:
    page = opened("/#/cohort", "cohort")
    page.get_by_label("Filter studies").fill("s007")
    page.wait_for_selector("text=1 studies")
    page.get_by_role("button", name="Findings of the report").click()
    page.get_by_role("button", name="s007").click()
    state(page, "ready")
