"""The language-model back end against a stub server that speaks the real HTTP."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ctglip.reports.llm import LLMParser, LLMSettings
from ctglip.reports.parser import get_parser
from tests.cli.commands import good_here, here

REPORT = "The liver contains a cyst. No gallstones. It rains."
ROWS = [
    {"sentence": 0, "organ": "liver", "abnormality": "liver_cyst", "status": "affirmed"},
    {"sentence": 1, "organ": "gallbladder", "abnormality": "gallstone", "status": "negated"},
]
Reply = tuple[int, Any]


class Stub:
    """A server that gives the scripted replies in turn (the last one for ever) and keeps the requests."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.requests: list[dict[str, Any]] = []
        self.headers: list[str | None] = []
        self.paths: list[str] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                stub.requests.append(json.loads(body))
                stub.headers.append(self.headers.get("Authorization"))
                stub.paths.append(self.path)
                code, content = stub.replies[min(len(stub.requests), len(stub.replies)) - 1]
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                if code in (301, 302, 303, 307, 308):
                    self.send_header("Location", content)
                self.end_headers()
                self.wfile.write(content if isinstance(content, bytes) else json.dumps(content).encode())

            def log_message(self, format: str, *args: Any) -> None:
                """Be quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def says(self, *replies: Reply) -> None:
        self.replies = list(replies)


def answer(rows: Any) -> Reply:
    content = rows if isinstance(rows, str) else json.dumps({"findings": rows})
    return 200, {"choices": [{"message": {"role": "assistant", "content": content}}]}


@pytest.fixture
def stub() -> Iterator[Stub]:
    server = Stub()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def parser(stub: Stub, tmp_path: Path) -> Callable[..., LLMParser]:
    def make(**changes: Any) -> LLMParser:
        settings = {"url": stub.url, "model": "tiny", "wait_s": 0.0, "timeout_s": 5.0, **changes}
        return LLMParser(LLMSettings(**settings), get_parser())

    return make


def test_one_structured_call_gives_rows(stub: Stub, parser: Callable[..., LLMParser]) -> None:
    stub.says(answer(ROWS))
    reading = parser().parse(REPORT)
    assert reading.source == "model"
    assert reading.failure is None
    assert [(r.sentence, r.organ, r.abnormality, r.status) for r in reading.findings[:2]] == [
        ("The liver contains a cyst.", "liver", "liver_cyst", "affirmed"),
        ("No gallstones.", "gallbladder", "gallstone", "negated"),
    ]
    assert reading.findings[2].organ is None
    assert reading.findings[2].reason
    (request,) = stub.requests
    assert stub.paths == ["/v1/chat/completions"]
    assert request["model"] == "tiny"
    assert request["temperature"] == 0
    assert request["response_format"]["type"] == "json_schema"
    assert "0: The liver contains a cyst." in request["messages"][1]["content"]


def test_the_rules_are_the_cross_check(stub: Stub, parser: Callable[..., LLMParser]) -> None:
    stub.says(answer([{"sentence": 0, "organ": "liver", "abnormality": "hepatomegaly", "status": "affirmed"}]))
    reading = parser().parse(REPORT)
    assert reading.only_model == {("liver", "hepatomegaly", "affirmed")}
    assert ("liver", "liver_cyst", "affirmed") in reading.only_rules


@pytest.mark.parametrize(
    "bad",
    [
        "I am only a language model.",
        '{"findings": [{"sentence": 0, "organ": "liver", "status": "maybe"}]}',
        '{"findings": [{"sentence": 0, "organ": "livre", "status": "affirmed"}]}',
        '{"findings": [{"sentence": 0, "organ": "liver", "abnormality": "curse", "status": "affirmed"}]}',
        '{"findings": [{"sentence": 9, "organ": "liver", "status": "normal"}]}',
        '{"findings": [{"sentence": 0, "organ": "liver", "status": "normal", "note": "x"}]}',
    ],
)
def test_a_bad_answer_is_asked_for_again_with_what_was_wrong(
    bad: str, stub: Stub, parser: Callable[..., LLMParser]
) -> None:
    stub.says(answer(bad), answer(ROWS))
    reading = parser().parse(REPORT)
    assert reading.source == "model"
    assert len(stub.requests) == 2
    again = stub.requests[1]["messages"]
    assert again[2] == {"role": "assistant", "content": bad}
    assert "Answer again" in again[3]["content"]


@pytest.mark.parametrize("code", [500, 503, 429])
def test_a_busy_server_is_asked_again(code: int, stub: Stub, parser: Callable[..., LLMParser]) -> None:
    stub.says((code, {}), answer(ROWS))
    assert parser().parse(REPORT).source == "model"


def test_a_refusal_is_not_asked_again(stub: Stub, parser: Callable[..., LLMParser]) -> None:
    stub.says((401, {}))
    reading = parser().parse(REPORT, "s1")
    assert len(stub.requests) == 1
    assert reading.failure is not None
    assert (reading.failure.study_id, reading.failure.code) == ("s1", "llm_refused")


@pytest.mark.parametrize("reply", [answer("nonsense"), (500, {}), (200, b"<html>"), (200, {"choices": []})])
def test_a_failed_call_is_a_failure_and_the_rules_answer(
    reply: Reply, stub: Stub, parser: Callable[..., LLMParser]
) -> None:
    stub.says(reply)
    reading = parser(attempts=2).parse(REPORT)
    assert len(stub.requests) == 2
    assert reading.source == "rules"
    assert reading.failure is not None
    assert reading.findings == get_parser().parse(REPORT)
    assert not any("nonsense" in row.sentence for row in reading.findings)


def test_no_server_is_a_failure_too(parser: Callable[..., LLMParser]) -> None:
    reading = parser(url="http://127.0.0.1:9/v1", attempts=1).parse(REPORT)
    assert reading.failure is not None
    assert reading.failure.code == "llm_unreachable"


def test_answers_are_kept_by_model_and_text(stub: Stub, parser: Callable[..., LLMParser], tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "answers.sqlite"
    stub.says(answer(ROWS))
    first = parser(cache=cache).parse(REPORT)
    again = parser(cache=cache).parse(REPORT)
    assert first == again
    assert len(stub.requests) == 1
    parser(cache=cache, model="other").parse(REPORT)
    parser(cache=cache).parse("The liver is normal. No stone. It rains.")
    assert len(stub.requests) == 3
    with sqlite3.connect(cache) as opened:
        assert opened.execute("SELECT count(*) FROM answers").fetchone() == (3,)


def test_a_bad_answer_is_not_kept(stub: Stub, parser: Callable[..., LLMParser], tmp_path: Path) -> None:
    stub.says(answer("nonsense"))
    parser(cache=tmp_path / "c.sqlite", attempts=1).parse(REPORT)
    stub.says(answer("nonsense"), answer(ROWS))
    assert parser(cache=tmp_path / "c.sqlite", attempts=1).parse(REPORT).source == "model"


def test_the_key_is_read_from_the_environment(
    stub: Stub, parser: Callable[..., LLMParser], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    stub.says(answer(ROWS))
    parser(key_variable="SOME_KEY").parse(REPORT)
    parser().parse(REPORT)
    assert stub.headers == ["Bearer secret", None]


def test_nothing_to_read_is_not_sent(stub: Stub, parser: Callable[..., LLMParser]) -> None:
    assert parser().parse("").findings == ()
    assert stub.requests == []


def test_only_http_is_a_server() -> None:
    with pytest.raises(ValidationError, match="http"):
        LLMSettings(url="file:///etc/passwd", model="m")


def test_on_the_command_line(stub: Stub, tmp_path: Path) -> None:
    """One report: what the model reads, and where the rules differ. A table: a failed call is a failed row."""
    stub.says(answer(ROWS[:1]))
    report = tmp_path / "report.txt"
    report.write_text(REPORT)
    asked = ("--llm", "tiny", "--llm-url", stub.url)
    one = good_here("parse", report, *asked)
    assert "liver: hepatic cyst, affirmed" in one.out
    assert "the rules alone: gallbladder, gallstone, negated" in one.out
    table = tmp_path / "cohort.csv"
    table.write_text(f"study_id,patient_id,image,report\na,p,a.nii.gz,{REPORT}\nb,q,b.nii.gz,Gallstones.\n")
    stub.says(answer(ROWS), (404, {}))
    stub.requests.clear()
    done = here("parse", table, "--out", tmp_path / "findings.csv", "--json", *asked)
    assert done.code == 1
    told = json.loads(done.out)["failed"]
    assert [(row["study_id"], row["code"]) for row in told if row["stage"] == "report"] == [("b", "llm_refused")]
    assert "gallstone" in (tmp_path / "findings.csv").read_text().splitlines()[-1], "the rules stand in"
    assert (tmp_path / "findings.llm.sqlite").is_file()


def test_a_wrong_address_is_named() -> None:
    done = here("parse", "-", "--llm", "tiny", "--llm-url", "ftp://here", stdin=REPORT)
    assert done.code == 2
    assert "http://" in done.err


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_takes_no_key_along(
    code: int, stub: Stub, parser: Callable[..., LLMParser], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CTGLIP_LLM_KEY", "secret")
    other = Stub()
    try:
        other.says(answer(ROWS))
        stub.says((code, f"{other.url}/chat/completions"))
        reading = parser().parse(REPORT)
        assert reading.failure is not None
        assert reading.failure.code == "llm_refused"
        assert stub.headers == ["Bearer secret"]
        assert other.headers == []
    finally:
        other.server.shutdown()
        other.server.server_close()


@pytest.mark.parametrize("content", [b"no database", b"SQLite format 3\0" + bytes(200)])
def test_a_broken_cache_is_named(content: bytes, stub: Stub, parser: Callable[..., LLMParser], tmp_path: Path) -> None:
    (tmp_path / "cache.sqlite").write_bytes(content)
    stub.says(answer(ROWS))
    reading = parser(cache=tmp_path / "cache.sqlite").parse(REPORT)
    assert reading.source == "rules"
    assert reading.failure is not None
    assert reading.failure.code == "llm_cache"
