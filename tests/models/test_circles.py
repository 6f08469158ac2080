"""No module of the learning rooms imports one that imports it, be it late or for types alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ctglip

ROOT = Path(ctglip.__file__).parent


def imports(room: str) -> dict[str, set[str]]:
    """Each module of a room and the modules of the room that it imports anywhere in its text."""
    files = {f"ctglip.{'.'.join(p.relative_to(ROOT).with_suffix('').parts)}": p for p in (ROOT / room).rglob("*.py")}
    named = {name.removesuffix(".__init__"): path for name, path in files.items()}
    found = {}
    for name, path in named.items():
        if path == ROOT / room / "__init__.py":
            continue  # public names, imported when they are asked for
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        asked = {node.module for node in nodes} | {f"{node.module}.{a.name}" for node in nodes for a in node.names}
        found[name] = {other for other in asked if other in named and other != name}
    return found


@pytest.mark.parametrize("room", ["models", "objectives", "losses", "data"])
def test_imports_go_one_way(room: str) -> None:
    left = imports(room)
    while left:
        free = [name for name, needed in left.items() if not needed & left.keys()]
        assert free, f"in a circle: {sorted(left)}"
        left = {name: needed for name, needed in left.items() if name not in free}
