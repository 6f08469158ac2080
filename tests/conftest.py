"""What every test shares: one torch thread, where the real data is, a browser, and options of another machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CTGLIP_CACHE", str(Path(tempfile.gettempdir()) / f"ctglip-tests-{os.getuid()}"))


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("another machine", "run the tests as another machine would (tests/perturbation.py)")
    group.addoption("--seed-shift", type=int, default=0, help="shift every seed of numpy and torch by this")
    group.addoption("--perturb", type=float, default=0.0, help="initial weights times 1 plus or minus this, say 1e-6")
    group.addoption("--threads", type=int, default=0, help="threads of torch, whatever a config asks for")


def pytest_configure(config: pytest.Config) -> None:
    asked = [config.getoption(name) for name in ("seed_shift", "perturb", "threads")]
    if any(asked):
        from tests.perturbation import perturb

        patch = pytest.MonkeyPatch()
        config.add_cleanup(patch.undo)
        perturb(patch, *asked)


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_disks() -> Iterator[None]:
    """What is written is not waited for: nothing here cuts the power (``tests/test_files.py`` asserts the waiting)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda number: None)
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans, radiographs and reports; tests that need it skip where it is absent."""
    default = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("CTGLIP_REAL_DATA", default)).resolve()
    if not folder.is_dir():
        pytest.skip(f"real data is not at {folder} (set CTGLIP_REAL_DATA)")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium under Playwright; tests that need it skip without.

    It ends with the module: while it lives, an event loop runs in this thread, and ``asyncio.run`` refuses.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    arguments = ["--no-sandbox", "--disable-quic", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with playwright.sync_playwright() as driver:
        chrome = driver.chromium.launch(executable_path=found, args=arguments)
        yield chrome
        chrome.close()
