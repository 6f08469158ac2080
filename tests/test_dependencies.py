"""Every package that the code imports is declared in ``pyproject.toml``."""

from __future__ import annotations

import ast
import functools
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OWN = {"ctglip", "ctglip_preprocessing"}
BROUGHT_ALONG = {
    "nnunetv2": "TotalSegmentator runs on it, and its version is TotalSegmentator's to choose",
    "starlette": "FastAPI is built on it, and its version is FastAPI's to choose",
    "pydantic_core": "pydantic pins the one version that it works with",
}


def normal(name: str) -> str:
    """A distribution's name as package registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> set[str]:
    """Distributions that the project and its extras name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return {normal(re.split(r"[\[<>=!~ ]", line)[0]) for line in lines}


def imported(code: str) -> set[str]:
    """Top-level packages that a file imports, wherever it does so."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@functools.cache
def distributions() -> dict[str, list[str]]:
    """Distributions of each top-level package; reading them all takes a second or more."""
    return dict(packages_distributions())


def undeclared(names: set[str]) -> set[str]:
    """Those of some packages that no declared distribution holds."""
    homes, known = distributions(), declared()
    others = names - OWN - set(sys.stdlib_module_names) - set(BROUGHT_ALONG)
    return {name for name in others if not {normal(home) for home in homes.get(name, [name])} & known}


def test_what_is_imported_is_declared() -> None:
    files = [path for name in ("ctglip", "preprocessing") for path in (ROOT / name).rglob("*.py")]
    found = {name: path for path in files for name in undeclared(imported(path.read_text(encoding="utf-8")))}
    assert found == {}


def test_an_undeclared_package_is_seen() -> None:
    assert undeclared(imported("import numpy, fsspec.core\nfrom os import path\n")) == {"fsspec"}
