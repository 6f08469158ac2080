"""Blocks of code in the pages: commands parse, Python compiles and imports what is there, configs are valid."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import typer
import yaml

from ctglip.cli.config import settings_class
from ctglip.cli.main import STEPS, app
from ctglip.config import load_tree, validate

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE = ("torchrun", "srun", "sbatch", "totalseg_download_weights")
"""Commands that need more than this machine: they carry a mark."""
MARK = re.compile(r"needs: (gpu|cluster|data|a server|a run)", re.IGNORECASE)


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and text of each block."""
    for found in re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        yield found[1], found[2]


def commands(text: str) -> Iterator[str]:
    """The commands of a block of shell, continued lines joined."""
    for line in text.replace("\\\n", " ").splitlines():
        line = line.strip().removeprefix("$ ")
        for part in re.split(r"&&|;|\|\|", line.partition("  #")[0] if "  #" in line else line):
            found = re.search(r"(?:^|-m |--spec \. )ctglip (?=[a-z-]).*", part.strip())
            if found:
                yield found[0][found[0].index("ctglip ") :]


def parsed(command: str) -> None:
    """Parse a command as the command line does, and run nothing."""
    words = [word for word in shlex.split(command, comments=True) if word not in ("...",)][1:]
    words = words[: next((n for n, word in enumerate(words) if word in (">", "|", "<")), len(words))]
    group, context = typer.main.get_command(app), None
    while hasattr(group, "commands") and words and not words[0].startswith("-"):
        assert words[0] in group.commands, f"no command {words[0]}: {command}"
        group = group.commands[words.pop(0)]
    if not hasattr(group, "commands"):
        group.make_context("ctglip", words, parent=context)


def usage(command: str) -> bool:
    """A summary of what a command takes, not a command."""
    return bool(re.search(r"\[|\||\.\.\.", command.replace("[", "[", 1)) and re.search(r"[A-Z]{3,}", command))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_a_page_parse(page: Path) -> None:
    wrong = []
    for language, text in blocks(page.read_text(encoding="utf-8")):
        if language not in ("", "bash", "console", "sh"):
            continue
        for command in commands(text):
            if usage(command):
                continue
            try:
                parsed(command)
            except Exception as error:  # noqa: BLE001
                wrong.append(f"{command}: {error}")
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_of_a_page_compiles_and_imports_what_is_there(page: Path) -> None:
    for language, text in blocks(page.read_text(encoding="utf-8")):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ctglip"):
                module = import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ctglip":
                assert hasattr(import_module("ctglip"), node.attr), node.attr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_needs_more_than_a_machine_is_marked(page: Path) -> None:
    for language, text in blocks(page.read_text(encoding="utf-8")):
        if language in ("", "bash", "console", "sh") and any(
            line.strip().startswith(ELSEWHERE) for line in text.splitlines()
        ):
            assert MARK.search(text), text


def test_configs_of_pages_are_valid(tmp_path: Path) -> None:
    checked = 0
    for page in PAGES:
        for language, text in blocks(page.read_text(encoding="utf-8")):
            tree = yaml.safe_load(text) if language == "yaml" else None
            if not isinstance(tree, dict) or "extends" not in tree or "kind" in tree:
                continue
            file = tmp_path / "page.yaml"
            file.write_text(text, encoding="utf-8")
            whole = load_tree(file)
            validate(settings_class(str(whole["kind"])), whole, page.name)
            checked += 1
    assert checked > 1


def test_the_quickstart_runs_as_printed(capsys: pytest.CaptureFixture[str]) -> None:
    code = next(text for language, text in blocks(PAGES[0].read_text(encoding="utf-8")) if language == "python")
    assert len(code.strip().splitlines()) <= 12
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "affirmed" in printed
    assert "hepatic_steatosis" in printed


def test_the_five_steps_parse() -> None:
    found = [one for one in commands(STEPS) if not one.startswith("ctglip learns")]
    assert len(found) >= 5
    for command in found:
        parsed(command)


def test_a_wrong_option_is_seen() -> None:
    with pytest.raises(Exception, match=r"(?i)no such option|studeis"):
        parsed("ctglip simulate out --studeis 3")
    with pytest.raises(AssertionError, match="no command"):
        parsed("ctglip pretrian store run")
    assert list(commands("ctglip parse a \\\n  --json && ctglip doctor")) == [
        "ctglip parse a    --json",
        "ctglip doctor",
    ]
