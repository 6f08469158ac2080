"""A server in this process: its worker works when the test says so."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed")
from fastapi.testclient import TestClient

from ctglip.serve.app import create_app
from ctglip.serve.asking import Asking
from ctglip.serve.folder import ServeFolder
from ctglip.serve.jobs import JobStore
from ctglip.serve.models import load_models
from ctglip.serve.security import HEADER, Guard
from ctglip.serve.serving import Serving
from ctglip.serve.uploads import UploadLimits
from ctglip.serve.work import Workplace, work_on
from ctglip.store.tables import Store
from tests.inference.conftest import files, trained

__all__ = ["files", "trained"]
HOME = "http://127.0.0.1"


@dataclass
class Ward:
    """A server, and somebody who uses it."""

    serving: Serving
    place: Workplace
    client: TestClient

    def get(self, path: str, status: int = 200, **options: Any) -> Any:
        answer = self.client.get(path, **options)
        assert answer.status_code == status, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        answer = self.client.post(path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    def begin(self, scan: Sequence[Path] = (), masks: Sequence[Path] = ()) -> str:
        """Send files without starting."""
        scan_id = self.post("/api/scans", status=201)["id"]
        for role, several in (("scan", scan), ("masks", masks)):
            for file in several:
                self.send(scan_id, file.read_bytes(), file.name, role)
        return scan_id

    def send(self, scan_id: str, data: bytes, name: str, role: str = "scan", replace: bool = False) -> Any:
        query = {"name": name, "role": role, "replace": replace}
        answer = self.client.put(f"/api/scans/{scan_id}/files", params=query, content=data)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def work(self) -> int:
        """Do all that waits; how many that were."""
        done = 0
        while (job := self.place.jobs.claim()) is not None:
            work_on(job, self.place)
            done += 1
        return done

    def read(self, scan: Sequence[Path], masks: Sequence[Path] = ()) -> dict[str, Any]:
        """Send, start, wait."""
        scan_id = self.begin(scan, masks)
        self.post(f"/api/scans/{scan_id}/start")
        self.work()
        return self.get(f"/api/scans/{scan_id}")


def make_ward(
    folder: Path, runs: Sequence[Path], store: Path | None = None, token: str | None = None, **limits: Any
) -> Ward:
    """A server that is not started, whose worker is called by hand."""
    home, models = ServeFolder(folder), load_models(runs)
    jobs, bounds = JobStore(home.jobs), UploadLimits(**limits)
    serving = Serving(home, jobs, Asking(home, models), bounds, Guard(token), store=store)
    place = Workplace(home, jobs, models, bounds, None if store is None else Store.open(store))
    client = TestClient(create_app(serving), base_url=HOME, raise_server_exceptions=False)
    client.headers[HEADER] = serving.guard.csrf
    return Ward(serving, place, client)


@pytest.fixture
def ward(trained: tuple[Store, Path], tmp_path: Path) -> Ward:
    return make_ward(tmp_path / "serve", [trained[1]], trained[0].path)


@pytest.fixture(scope="session")
def read_ward(
    trained: tuple[Store, Path], files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Ward, str]:
    """A server of two models with one scan that is read, for tests that change nothing."""
    folder = tmp_path_factory.mktemp("ward")
    shutil.copytree(trained[1] / "model", folder / "other" / "model")
    ward = make_ward(folder / "serve", [trained[1], folder / "other"])
    scan = ward.read([files[0]], [files[1]])
    assert scan["state"] == "ready", scan
    return ward, scan["id"]
