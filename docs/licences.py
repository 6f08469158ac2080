"""The licence of every package that ctglip needs, as the packages state it: ``python docs/licences.py``."""

from __future__ import annotations

import argparse
import json
import re
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path


def needed(name: str, extras: frozenset[str] = frozenset()) -> set[str]:
    """A package and all that it needs that is installed, without extras but those that are asked for."""
    found: set[str] = set()
    left = [name]
    while left:
        one = left.pop()
        if one in found:
            continue
        try:
            lines = requires(one) or []
        except PackageNotFoundError:
            continue
        found.add(one)
        wanted = extras if one == name else frozenset()
        left += [named for line in lines if (named := _wanted(line, wanted)) is not None]
    return found


def _wanted(line: str, extras: frozenset[str]) -> str | None:
    """The package that a line of requirements names, if its extra is wanted."""
    extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", line)
    if extra is not None and extra[1] not in extras:
        return None
    return re.split(r"[\s\[<>=!~;(]", line, maxsplit=1)[0].lower().replace("_", "-")


def licence_of(name: str) -> str:
    """What a package states: its licence expression, its classifiers, or the first line of its licence field."""
    about = metadata(name)
    if about.get("License-Expression"):
        return str(about["License-Expression"])
    classifiers = [line.split(" :: ")[-1] for line in about.get_all("Classifier", []) if line.startswith("License ::")]
    stated = (about.get("License") or "").strip().splitlines()
    return ", ".join(classifiers) or (stated[0][:80] if stated else "not stated")


def main() -> None:
    """Print a table, or write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extra", action="append", default=[], help="an extra of ctglip; repeatable")
    parser.add_argument("--json", type=Path, help="a file to write")
    given = parser.parse_args()
    names = sorted(needed("ctglip", frozenset(given.extra)))
    table = {name: {"version": metadata(name)["Version"], "licence": licence_of(name)} for name in names}
    if given.json:
        given.json.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    width = max(map(len, table)) + 2
    for name, row in table.items():
        print(f"{name:<{width}}{row['version']:<14}{row['licence']}")


if __name__ == "__main__":
    main()
