"""Who is let in, and what a page may do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ctglip.errors import CTGLIPError
from ctglip.serve.folder import ServeFolder
from ctglip.serve.security import HEADER, is_loopback, read_token
from ctglip.serve.server import ServeOptions, serve
from ctglip.store.tables import Store
from tests.serve.conftest import HOME, Ward, make_ward

TOKEN = "0123456789abcdef"


def test_changes_need_our_own_origin_and_the_token(ward: Ward) -> None:
    assert ward.client.post("/api/scans").status_code == 201
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://[::1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        assert ward.client.post("/api/scans", headers=headers).json()["error"]["code"] == "other_origin"
    assert ward.client.post("/api/scans", headers={"Origin": HOME}).status_code == 201
    assert ward.client.post("/api/scans", headers={HEADER: "wrong"}).json()["error"]["code"] == "no_csrf"
    del ward.client.headers[HEADER]
    assert ward.client.post("/api/scans").json()["error"]["code"] == "no_csrf"
    assert ward.client.delete("/api/scans/0123456789abcdef").status_code == 403
    assert len(ward.get("/api/scans")) == 2


def test_other_names_of_this_machine_are_refused(ward: Ward) -> None:
    assert ward.client.get("/api/scans", headers={"Host": "evil.example"}).status_code == 421
    for host in ("localhost:8765", "127.0.0.2", "[::1]:8765"):
        assert ward.client.get("/api/scans", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", [b"\xe4.example", b"me@evil.example", b"[::1", b"", b"evil.example/static/?"])
def test_a_damaged_host_is_no_name_of_ours_and_no_way_in(
    ward: Ward, trained: tuple[Store, Path], tmp_path: Path, host: bytes
) -> None:
    assert ward.client.get("/api/scans", headers={b"Host": host}).status_code == 421
    with_token = make_ward(tmp_path / "other", [trained[1]], token=TOKEN).client
    assert with_token.get("/api/scans", headers={b"Host": host}).status_code == 401


def test_pages_may_load_nothing_from_elsewhere(ward: Ward) -> None:
    for path in ("/", "/api", "/static/app.js", "/api/scans", "/nothing"):
        headers = ward.client.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
    for path in ("/", "/api", "/login"):
        loads = re.findall(r'(?:src|href)="([^"]*)"', ward.client.get(path).text)
        assert loads
        assert [one for one in loads if "//" in one or one.startswith("javascript")] == []
    assert ward.client.get("/api/scans").headers["Cache-Control"] == "no-store"


def test_with_a_token_nothing_is_seen_without_it(trained: tuple[Store, Path], tmp_path: Path) -> None:
    ward = make_ward(tmp_path / "serve", [trained[1]], token=TOKEN)
    client = ward.client
    assert client.get("/api/scans").json()["error"]["code"] == "no_token"
    assert client.get("/", follow_redirects=False).headers["Location"] == "/login"
    assert client.get("/login").status_code == 200
    assert client.get("/health").json() == {"alive": True}
    assert client.post("/api/scans").status_code == 401
    assert client.post("/login", content="wrong").status_code == 403
    assert client.post("/login", content="x" * 100_000).status_code == 403
    assert client.post("/login", content=TOKEN, headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.get("/api/scans", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert client.get("/api/scans", headers={"Authorization": "Bearer 0123456789abcdeX"}).status_code == 401
    answer = client.post("/login", content=TOKEN + "\n")
    assert "HttpOnly" in answer.headers["Set-Cookie"]
    assert "SameSite=strict" in answer.headers["Set-Cookie"]
    assert TOKEN not in answer.headers["Set-Cookie"]
    assert "Secure" not in answer.headers["Set-Cookie"]
    assert client.get("/api/scans").status_code == 200
    assert client.get("/api/scans", headers={"Host": "ward.example"}).status_code == 200
    assert client.post("/api/scans").status_code == 201
    assert "Secure" in client.post("https://127.0.0.1/login", content=TOKEN).headers["Set-Cookie"]


def test_without_a_token_there_is_no_login(ward: Ward) -> None:
    assert ward.client.get("/login", follow_redirects=False).headers["Location"] == "/"
    assert ward.client.post("/login", content="").status_code == 403


def test_token_files_are_private_and_long_enough(tmp_path: Path) -> None:
    path = tmp_path / "token"
    with pytest.raises(CTGLIPError, match="cannot be read"):
        read_token(path)
    path.write_text(TOKEN + "\n")
    path.chmod(0o644)
    with pytest.raises(CTGLIPError, match="Others can read"):
        read_token(path)
    path.chmod(0o600)
    assert read_token(path) == TOKEN
    path.write_text("short")
    with pytest.raises(CTGLIPError, match="16 plain"):
        read_token(path)


def test_other_addresses_need_a_token(trained: tuple[Store, Path], tmp_path: Path) -> None:
    with pytest.raises(CTGLIPError, match="others than you"):
        serve(ServeOptions([trained[1]], host="0.0.0.0", folder=tmp_path))
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "ward.example")] == [
        True, True, True, False, False,
    ]  # fmt: skip


def test_a_folder_has_one_server(tmp_path: Path) -> None:
    first, second = ServeFolder(tmp_path), ServeFolder(tmp_path)
    first.lock()
    with pytest.raises(CTGLIPError, match="Another ctglip serve"):
        second.lock()
    first.unlock()
    second.lock()
    with pytest.raises(CTGLIPError, match="no such scan"):
        second.scan("../../etc")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/scans/..%2f..%2fetc"), ("GET", "/api/scans/0123456789abcdef/views/..%2fstudy.json"),
        ("GET", "/api/scans/0123456789abcdef/pictures/..%2f..%2fjobs.png"), ("GET", "/static/..%2fapp.py"),
        ("GET", "/api/scans/x/map?organ=../../a&abnormality=b"), ("POST", "/api/scans/x/ask"),
        ("PUT", "/api/scans/x/files?name=a&role=other"), ("POST", "/api/scans/x/series"), ("PATCH", "/api/scans"),
        ("GET", "/api/cohort?size=100000"), ("GET", "/api/cohort?sort=;drop"), ("POST", "/api/cohort/..%2f..%2fx/open"),
        ("GET", "/api/completions?model=zzz"), ("GET", "/api/scans/%00/events"), ("DELETE", "/api/scans/%ff%fe"),
    ],
)  # fmt: skip
def test_odd_requests_are_the_senders_fault(ward: Ward, method: str, path: str) -> None:
    for body in (None, b"", b"{", b"[]", b'{"questions": 3}', b"\xff" * 100):
        answer = ward.client.request(method, path, content=body)
        assert 400 <= answer.status_code < 500, (answer.status_code, answer.text)


def test_what_is_not_there_is_an_error_as_all_are(ward: Ward) -> None:
    assert ward.get("/api/nothing", 404)["error"]["code"] == "not_found"
    error = ward.client.patch("/api/scans").json()["error"]
    assert (error["message"], error["code"]) == ("Method Not Allowed.", "method_not_allowed")
