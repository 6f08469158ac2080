"""Error codes are explained in the words of the code, and every code that can be met is known."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ctglip.cli.failures import failure
from ctglip.cli.main import STEPS, app
from ctglip.error_codes import CURES, error_code, error_codes
from ctglip.errors import CTGLIPError, ScanError

ROOT = Path(__file__).resolve().parents[2]


def test_every_code_in_the_code_has_a_cause_and_a_cure() -> None:
    files = [path for name in ("ctglip", "preprocessing") for path in (ROOT / name).rglob("*.py")]
    written = {code for path in files for code in re.findall(r'\bcode="(\w+)"', path.read_text(encoding="utf-8"))} | {
        code for path in files for code in re.findall(r'QualityCheck\("(\w+)"', path.read_text(encoding="utf-8"))
    }
    known = error_codes()
    assert len(written) > 200
    assert written - known.keys() == set()
    assert [code for code, one in known.items() if not one.cases] == []
    assert [(code, cause) for code, one in known.items() for cause, cure in one.cases if not cure] == []
    assert set(CURES) - known.keys() == set(), "cures of codes that nothing raises"


def test_one_code_is_explained_as_among_all() -> None:
    for code in ("masks_empty", "hu_scaled", "cannot_write", "worker_died"):
        one = error_code(code)
        assert set(one.cases) <= set(error_codes()[code].cases)
        assert one.cases


def test_codes_of_the_gate_around_readers_are_known() -> None:
    for code in ("scan_damaged", "masks_damaged"):
        assert ("INPUT cannot be read (REASON).") in dict(error_code(code).cases)


def test_what_depends_is_in_capital_letters_and_a_message_of_two_lines_is_joined() -> None:
    cases = dict(error_code("missing_file").cases)
    assert cases["There is no file or folder PATH."] == "Check the path."
    assert ("Study ID has an empty report.") in dict(error_code("report_empty").cases)


def test_a_slip_gets_the_nearest_code() -> None:
    done = CliRunner().invoke(app, ["explain", "mask_empty"])
    assert isinstance(done.exception, CTGLIPError)
    assert done.exception.code == "unknown_code"
    assert "masks_empty" in done.exception.fix
    assert "masks_empty" in CliRunner().invoke(app, ["explain", "[masks_empty]"]).output
    assert isinstance(CliRunner().invoke(app, ["explain"]).exception, CTGLIPError)


def test_codes_as_json() -> None:
    shown = json.loads(CliRunner().invoke(app, ["explain", "masks_empty", "--json"]).output)
    assert shown["code"] == "masks_empty"
    assert all(len(case) == 2 for case in shown["cases"])
    assert json.loads(CliRunner().invoke(app, ["explain", "--list", "--json"]).output).keys() == error_codes().keys()


def test_a_failed_command_names_its_code_where_there_is_one() -> None:
    assert failure(ScanError("Broken.", code="masks_empty", fix="Mend it.")) == ("Broken. Mend it. [masks_empty]", 2)
    assert failure(ScanError("Broken.")) == ("Broken.", 2)


def test_ctglip_alone_shows_five_steps_whose_commands_parse() -> None:
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 0
    assert done.output.strip() == STEPS.strip()
    assert re.findall(r"^  (\d)\.", STEPS, flags=re.MULTILINE) == list("12345")


@pytest.mark.parametrize(("shell", "sign"), [("bash", "complete "), ("zsh", "compdef"), ("fish", "complete --command")])
def test_shells_can_complete(shell: str, sign: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_CTGLIP_COMPLETE", f"source_{shell}")
    done = CliRunner().invoke(app, [], prog_name="ctglip")
    assert sign in done.output
    monkeypatch.setenv("_CTGLIP_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "ctglip pre")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert {"pretrain", "preprocess"} <= set(CliRunner().invoke(app, [], prog_name="ctglip").output.split())
