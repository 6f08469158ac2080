"""Public names of a package that are imported when they are first asked for, so that importing the package is quick.

A package imports its public names ``if TYPE_CHECKING``, where editors and type checkers look for them, and hands the
rest to ``public_names``: the names stand in that one place.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def public_names(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package (PEP 562).

    Args:
        package: its ``__name__``.
    """

    def get(name: str) -> Any:
        if name == "__all__":
            return sorted(origins(package))
        if name.startswith("__") or name not in origins(package):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(import_module(origins(package)[name]), name)
        setattr(sys.modules[package], name, found)
        return found

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *origins(package)})

    return get, names


@functools.cache
def origins(package: str) -> dict[str, str]:
    """Each public name of a package and the module that defines it, as the package's ``if TYPE_CHECKING`` has them."""
    import ast
    from pathlib import Path

    tree = ast.parse(Path(str(sys.modules[package].__file__)).read_text(encoding="utf-8"))
    blocks = [node.body for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for body in blocks for node in body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}
