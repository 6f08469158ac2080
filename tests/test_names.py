"""A name of a class or of a type stands for one thing in the whole project."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def types_of(code: str) -> list[str]:
    """Names of a file's classes, nested ones too, and of its aliases of types at the top."""
    tree = ast.parse(code)
    names = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(
            node.value, ast.Subscript | ast.BinOp | ast.Name | ast.Attribute
        ):
            names += [one.id for one in node.targets if isinstance(one, ast.Name) and _is_type(one.id)]
    return names


def _is_type(name: str) -> bool:
    return name[0].isupper() and not name.isupper()


def test_no_class_and_no_type_is_defined_twice() -> None:
    homes: defaultdict[str, list[str]] = defaultdict(list)
    for room in ("ctglip", "preprocessing"):
        for path in (ROOT / room).rglob("*.py"):
            for name in types_of(path.read_text(encoding="utf-8")):
                homes[name].append(str(path.relative_to(ROOT)))
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


def test_classes_and_aliases_are_seen() -> None:
    code = "Box = tuple[int, int]\nEDGE = 3\nclass A:\n    class B: ...\n"
    assert sorted(types_of(code)) == ["A", "B", "Box"]
