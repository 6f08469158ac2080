"""What every test shares: one torch thread, and where the real data is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans, films and reports; tests that need it skip where it is absent."""
    default = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("CTGLIP_REAL_DATA", default)).resolve()
    if not folder.is_dir():
        pytest.skip(f"real data is not at {folder} (set CTGLIP_REAL_DATA)")
    return folder
