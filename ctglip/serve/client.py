"""A client of ``ctglip serve`` in Python: all that the page does, by the same calls."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from ctglip.errors import CTGLIPError
from ctglip.files import files_below
from ctglip.serve.jobs import ENDED

_WAIT_S = 0.2


class ServeClient:
    """Talks to one server.

    Examples:
        >>> client = ServeClient("http://127.0.0.1:8765")
        >>> scan = client.upload("ct.nii.gz", masks="masks.nii.gz")
        >>> client.wait(scan)["state"]
        'ready'
        >>> client.ask(scan, ["gallstones?"])["answers"][0]["probability"]

    Args:
        address: of the server.
        token: of its token file, where it has one.

    Raises:
        CTGLIPError: code ``no_server``: nobody answers; each method raises what the server says is wrong.
    """

    def __init__(self, address: str = "http://127.0.0.1:8765", token: str | None = None) -> None:
        parts = urlsplit(address)
        self._host, self._secure = parts.netloc, parts.scheme == "https"
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._headers["X-CTGLIP-Token"] = self.server()["token"]

    def server(self) -> dict[str, Any]:
        """What the server is: models, limits."""
        return self._call("GET", "/api/server")

    def upload(self, scan: Path | str, masks: Path | str | None = None) -> str:
        """Send a scan (a file, or a folder of DICOM files) and its masks, and start reading it; the upload's id."""
        scan_id = self._call("POST", "/api/scans")["id"]
        for role, path in (("masks", masks), ("scan", scan)):
            for file in [] if path is None else files_below(Path(path)):
                self.send(scan_id, file, role)
        self._call("POST", f"/api/scans/{scan_id}/start")
        return scan_id

    def send(self, scan_id: str, file: Path, role: str = "scan", replace: bool = False) -> None:
        """Send one more file of an upload: of the ``scan``, or its ``masks``; or in place of those of this role."""
        query = urlencode({"role": role, "name": file.name, "replace": replace})
        with file.open("rb") as stream:
            self._call("PUT", f"/api/scans/{scan_id}/files?{query}", stream, file.stat().st_size)

    def scans(self) -> list[dict[str, Any]]:
        """All uploads, the newest first."""
        return self._call("GET", "/api/scans")

    def scan(self, scan_id: str) -> dict[str, Any]:
        """One upload: its state, steps, checks."""
        return self._call("GET", f"/api/scans/{scan_id}")

    def wait(self, scan_id: str, timeout_s: float = 3600.0) -> dict[str, Any]:
        """An upload once nothing more happens to it by itself.

        Raises:
            CTGLIPError: code ``timeout``.
        """
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            job = self.scan(scan_id)
            if job["state"] in ENDED:
                return job
            time.sleep(_WAIT_S)
        raise CTGLIPError(f"The scan was not read in {timeout_s:g} s.", code="timeout", fix="Wait longer.")

    def choose(self, scan_id: str, series: int) -> dict[str, Any]:
        """Choose one of an upload's series, by its place in ``scan(...)["about"]["series"]``."""
        return self._call("POST", f"/api/scans/{scan_id}/series", {"series": series})

    def start(self, scan_id: str) -> dict[str, Any]:
        """Read an upload that was cancelled, or that failed and has other masks now."""
        return self._call("POST", f"/api/scans/{scan_id}/start")

    def cancel(self, scan_id: str) -> dict[str, Any]:
        """Work on an upload no longer."""
        return self._call("POST", f"/api/scans/{scan_id}/cancel")

    def delete(self, scan_id: str) -> None:
        """Delete an upload and all that was made of it."""
        self._call("DELETE", f"/api/scans/{scan_id}")

    def ask(
        self, scan_id: str, questions: Sequence[str] = (), sentences: Sequence[str] = (), model: str = ""
    ) -> dict[str, Any]:
        """Answers to questions, and similarities with sentences of one's own."""
        body = {"questions": list(questions), "sentences": list(sentences), "model": model}
        return self._call("POST", f"/api/scans/{scan_id}/ask", body)

    def organs(self, scan_id: str, model: str = "") -> dict[str, Any]:
        """The organs of an upload."""
        return self._call("GET", f"/api/scans/{scan_id}/organs?{urlencode({'model': model})}")

    def heat_map(self, scan_id: str, organ: str, abnormality: str, model: str = "") -> bytes:
        """A heat map: a gzipped NIfTI file; of a radiograph a PNG."""
        query = urlencode({"organ": organ, "abnormality": abnormality, "model": model})
        return self._bytes("GET", f"/api/scans/{scan_id}/map/file?{query}")

    def cohort(self, **options: Any) -> dict[str, Any]:
        """Studies of the server's store: ``words``, ``sort``, ``order``, ``page``, ``size``."""
        return self._call("GET", f"/api/cohort?{urlencode(options)}")

    def open_study(self, study_id: str) -> str:
        """Open a study of the store as if it had been uploaded; its id."""
        return self._call("POST", f"/api/cohort/{quote(study_id, safe='')}/open")["id"]

    def _call(self, method: str, path: str, body: Any = None, size: int | None = None) -> Any:
        return json.loads(self._bytes(method, path, body, size))

    def _bytes(self, method: str, path: str, body: Any = None, size: int | None = None) -> bytes:
        headers = dict(self._headers)
        if size is not None:
            headers["Content-Length"] = str(size)
        elif body is not None:
            body, headers["Content-Type"] = json.dumps(body), "application/json"
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, timeout=600)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            found = answer.read()
        except OSError as error:
            message = f"Nobody answers at {self._host}."
            raise CTGLIPError(message, code="no_server", fix="Start it: ctglip serve RUN") from error
        finally:
            connection.close()
        if answer.status >= http.client.BAD_REQUEST:
            raise _refusal(answer.status, found)
        return found


def _refusal(status: int, body: bytes) -> CTGLIPError:
    """What the server says is wrong; a server that is too busy to, or a proxy before it, says only a number."""
    try:
        problem = json.loads(body)["error"]
        return CTGLIPError(problem["message"], code=problem["code"], fix=problem["fix"])
    except (ValueError, LookupError, TypeError):
        return CTGLIPError(f"The server answers {status}.", code="refused", fix="Try again in a few seconds.")
