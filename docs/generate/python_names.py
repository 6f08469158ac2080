"""Pages of the Python API: each public name of each package, read from its docstring by mkdocstrings."""

from __future__ import annotations

import pkgutil
from importlib import import_module

import ctglip
from ctglip.lazy import origins


def packages() -> list[str]:
    """The packages that show public names."""
    names = ["ctglip", *(f"ctglip.{one.name}" for one in pkgutil.iter_modules(ctglip.__path__) if one.ispkg)]
    return [name for name in names if origins_of(name)]


def origins_of(package: str) -> dict[str, str]:
    """Each public name of a package, and the module that defines it."""
    import_module(package)
    return dict(sorted(origins(package).items()))


def pages() -> dict[str, str]:
    """A page a package."""
    return {f"reference/python/{package}.md": _page(package) for package in packages()}


def home_of(name: str) -> str:
    """The package whose page describes a public name: the first that shows it, the front page last."""
    return next(package for package in [*packages()[1:], "ctglip"] if name in origins_of(package))


def _page(package: str) -> str:
    about = " ".join((import_module(package).__doc__ or "").split("\n\n")[0].split()).replace("``", "`")
    lines = [f"# {package}", "", about, ""]
    for name, module in origins_of(package).items():
        home = home_of(name)
        link = f"- `{name}`: [{home}]({home}.md#{module}.{name})"
        lines += [f"::: {module}.{name}" if home == package else link, ""]
    return "\n".join(lines)
