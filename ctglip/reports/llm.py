"""A language model on your own machine as report parser: any server that speaks OpenAI's chat completions.

One call a report: its sentences go out numbered, rows of the findings' schema come back. Rows are checked against the
dictionaries; a bad answer is asked for again with what was wrong. The rule parser reads every report too: its rows are
the cross-check, and the answer when the model fails. Answers are cached in sqlite, keyed by model, prompt version,
dictionaries and text. Nothing is sent unless settings name a server.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ctglip.config import Settings
from ctglip.errors import CTGLIPError
from ctglip.files import one_line
from ctglip.reports.parser import ReportParser
from ctglip.types import Failure, Finding, Laterality, Report, Status

PROMPT_VERSION = 1
_PROMPT = """You read radiology reports. For each numbered sentence give what it says of each organ it speaks of.
status: affirmed (it is there), negated (it is not there), uncertain (hedged, suspected, cannot be excluded),
historical (was there before, is not said to be there now), normal (the organ is said to be normal; abnormality null).
An abnormality without a named organ belongs to the organ it is an abnormality of. "Both kidneys" is two rows, one a
side, laterality bilateral. Use only these names.
organs: {organs}
abnormalities: {abnormalities}
Answer with JSON alone: {{"findings": [{{"sentence": 0, "organ": "...", "abnormality": null, "status": "...",
"laterality": null, "level": null}}]}}"""


class LLMSettings(Settings):
    """Where the model is and how long to wait for it.

    Attributes:
        url: base of the server's API, ending in ``/v1``.
        model: its name there.
        key_variable: environment variable that holds the key, for servers that want one.
        timeout_s: seconds for one call.
        attempts: calls at most for one report.
        wait_s: pause before the second call, doubled for each further one.
        max_tokens: length of an answer at most.
        cache: sqlite file of answers; none is kept without it.
    """

    url: str = "http://127.0.0.1:8000/v1"
    model: str
    key_variable: str = "CTGLIP_LLM_KEY"
    timeout_s: float = Field(default=120.0, gt=0)
    attempts: int = Field(default=3, ge=1)
    wait_s: float = Field(default=1.0, ge=0)
    max_tokens: int = Field(default=4096, ge=1)
    cache: Path | None = None

    @field_validator("url")
    @classmethod
    def _http(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return url.rstrip("/")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A server that sends its callers elsewhere is not followed: the key and the reports are for it alone."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        """Answer none, so that the redirect is an error."""


_OPENER = urllib.request.build_opener(_NoRedirects)
_MOST_ANSWER = 1 << 24


class LLMError(CTGLIPError):
    """A model that cannot be reached, or whose answer is not what was asked for."""

    default_code = "llm"


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sentence: int = Field(ge=0)
    organ: str
    abnormality: str | None = None
    status: Status
    laterality: Laterality | None = None
    level: str | None = None


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    findings: list[_Row]


@dataclass(frozen=True)
class LLMReading:
    """What came of one report.

    Attributes:
        findings: the model's rows, or the rule parser's when the model failed.
        source: whose rows they are.
        only_model: (organ, abnormality, status) that the model alone found.
        only_rules: those that the rule parser alone found.
        failure: why the model's answer was not used.
    """

    findings: tuple[Finding, ...]
    source: Literal["model", "rules"]
    only_model: frozenset[tuple[str, str, Status]] = frozenset()
    only_rules: frozenset[tuple[str, str, Status]] = frozenset()
    failure: Failure | None = None


class LLMParser:
    """Reads reports with a model and checks it against the rules.

    Args:
        settings: the server and the cache.
        rules: the rule parser; its dictionaries are the model's too.
    """

    def __init__(self, settings: LLMSettings, rules: ReportParser) -> None:
        self.settings = settings
        self.rules = rules
        self.organs = rules.lexicon.organs
        self.abnormalities = rules.lexicon.abnormalities
        names = [name for name, organ in self.organs.organs.items() if organ.anatomy]
        self.prompt = _PROMPT.format(organs=", ".join(names), abnormalities=", ".join(self.abnormalities.abnormalities))

    def parse(self, report: Report | str, study_id: str = "report") -> LLMReading:
        """Findings of one report; never raises for what the server does: see ``LLMReading.failure``."""
        by_rule = self.rules.parse(report)
        sentences = tuple(dict.fromkeys((row.sentence_index, row.section, row.sentence) for row in by_rule))
        if not sentences:
            return LLMReading((), "rules")
        try:
            answer = self._answer([text for _, _, text in sentences])
        except LLMError as error:
            failure = Failure(study_id, "report", error.code, str(error))
            return LLMReading(by_rule, "rules", failure=failure)
        by_model = _findings(answer, sentences, f"llm:{self.settings.model}")
        claims, known = _claims(by_model), _claims(by_rule)
        return LLMReading(by_model, "model", claims - known, known - claims)

    def read(self, report: Report, study_id: str) -> tuple[tuple[Finding, ...], Failure | None]:
        """``parse`` as a ``text.cohorts.Reader``: the rule parser's rows where the model failed, and why it did."""
        reading = self.parse(report, study_id)
        return reading.findings, reading.failure

    # --- one answer, from the cache or the server

    def _answer(self, sentences: Sequence[str]) -> _Answer:
        numbered = "\n".join(f"{number}: {text}" for number, text in enumerate(sentences))
        parts = [self.settings.model, PROMPT_VERSION, self.organs.hash, self.abnormalities.hash, numbered]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        cached = self._recall(key)
        if cached is not None:
            return self._checked(cached, len(sentences))
        messages = [{"role": "system", "content": self.prompt}, {"role": "user", "content": numbered}]
        problem = LLMError("The model was not asked.")
        for attempt in range(self.settings.attempts):
            if attempt:
                time.sleep(self.settings.wait_s * 2 ** (attempt - 1))
            text = ""
            try:
                text = self._call(messages)
                answer = self._checked(text, len(sentences))
            except LLMError as error:
                problem = error
                if error.code == "llm_refused":
                    break
                if error.code == "llm_answer":
                    messages = [*messages[:2], {"role": "assistant", "content": text},
                                {"role": "user", "content": f"{error.message} Answer again."}]  # fmt: skip
                continue
            self._remember(key, text)
            return answer
        raise problem

    def _call(self, messages: list[dict[str, str]]) -> str:
        schema = {"name": "findings", "strict": True, "schema": _Answer.model_json_schema()}
        body = {
            "model": self.settings.model,
            "messages": messages,
            "temperature": 0,
            "max_tokens": self.settings.max_tokens,
            "response_format": {"type": "json_schema", "json_schema": schema},
        }
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(self.settings.key_variable)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        address = f"{self.settings.url}/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)  # noqa: S310  (http only, checked)
        try:
            with _OPENER.open(request, timeout=self.settings.timeout_s) as reply:
                answer = json.loads(reply.read(_MOST_ANSWER))
            return str(answer["choices"][0]["message"]["content"])
        except urllib.error.HTTPError as error:
            code = "llm_busy" if error.code in (408, 409, 429) or error.code >= 500 else "llm_refused"
            raise LLMError(f"{address} answered {error.code} {error.reason}.", code=code) from error
        except (OSError, TimeoutError, http.client.HTTPException) as error:
            fix = "Start the server, or leave the model out: the rule parser needs none."
            raise LLMError(f"{address} cannot be reached: {error}.", code="llm_unreachable", fix=fix) from error
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            raise LLMError(f"{address} did not answer as a chat completion: {error!r}.", code="llm_answer") from error

    def _checked(self, text: str, count: int) -> _Answer:
        """The answer as rows that the dictionaries know, or what is wrong with it."""
        try:
            answer = _Answer.model_validate_json(text.strip().removeprefix("```json").removesuffix("```"))
        except ValidationError as error:
            first = error.errors()[0]
            location = ".".join(str(part) for part in first["loc"])
            raise LLMError(
                f"The answer is not the JSON asked for: {location} {first['msg']}.", code="llm_answer"
            ) from error
        for row in answer.findings:
            if row.sentence >= count:
                raise LLMError(f"There is no sentence {row.sentence}.", code="llm_answer")
            if row.organ not in self.organs:
                raise LLMError(f"There is no organ {row.organ!r} in the list.", code="llm_answer")
            if row.abnormality is not None and row.abnormality not in self.abnormalities:
                raise LLMError(f"There is no abnormality {row.abnormality!r} in the list.", code="llm_answer")
        return answer

    # --- cache

    def _recall(self, key: str) -> str | None:
        if self.settings.cache is None or not self.settings.cache.is_file():
            return None
        try:
            with closing(sqlite3.connect(self.settings.cache)) as cache:
                row = cache.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise self._bad_cache(error) from error
        return str(row[0]) if row else None

    def _bad_cache(self, error: sqlite3.Error) -> LLMError:
        return LLMError(
            f"{self.settings.cache} is no cache of answers that can be used: {one_line(error)}.",
            code="llm_cache",
            fix="Remove it, or name another in the settings (cache).",
        )

    def _remember(self, key: str, answer: str) -> None:
        if self.settings.cache is None:
            return
        self.settings.cache.parent.mkdir(parents=True, exist_ok=True)
        try:
            with closing(sqlite3.connect(self.settings.cache, timeout=30)) as cache, cache:
                cache.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")
                cache.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, answer))
        except sqlite3.Error as error:
            raise self._bad_cache(error) from error


def _findings(answer: _Answer, sentences: Sequence[tuple[int, str, str]], source: str) -> tuple[Finding, ...]:
    """The model's rows in reading order; a sentence it passes over is unplaced."""
    found: list[Finding] = []
    for number, (index, section, text) in enumerate(sentences):
        rows = [row for row in answer.findings if row.sentence == number]
        found += [Finding(index, section, text, r.organ, r.abnormality, r.status, r.laterality, r.level) for r in rows]
        if not rows:
            reason = "the model names nothing in it"
            found.append(Finding(index, section, text, None, None, "affirmed", reason=reason))
    return tuple(replace(row, source=source) for row in found)


def _claims(findings: Sequence[Finding]) -> frozenset[tuple[str, str, Status]]:
    return frozenset((row.organ, row.abnormality, row.status) for row in findings if row.organ and row.abnormality)
