"""Tables in reports: each row becomes a sentence that says what its columns mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ctglip.files import read_yaml

_RULE = re.compile(r"^[ \t]*\|?[ \t]*:?-{2,}[-|: \t]*$")
_COLUMNS: dict[str, list[str]] = read_yaml(Path(__file__).with_name("columns.yaml"))
_FINDINGS, _LOCATIONS, _SIDES, _OTHERS = (frozenset(names) for names in _COLUMNS.values())
_ABSENT = frozenset({"none", "no", "nil", "absent", "negative", "-", "0", "not seen"})
_SIZE = re.compile(r"[\d.,x ]+(?:mm|cm)$", re.IGNORECASE)
_SPACED = re.compile(r" {2,}|\t")


def tabulated(text: str) -> str:
    """The text with the rows of its tables as sentences; what is no table stays as it is.

    A row without a header reads "first cell: second, third". A header names its columns: sides ("Right", "Left"), the
    side of each row ("Side"), findings of each row, or their location ("Location").
    """
    if "|" not in text and "\t" not in text and ";" not in text and "   " not in text:
        return text
    if "\n" not in text:
        return _plain(text)
    lines = text.split("\n")
    out: list[str] = []
    at = 0
    while at < len(lines):
        block = _block(lines, at)
        if len(block) > 1 and _is_header(block[0]):
            rows = [row for row in block[1:] if row]
            out += [sentence for row in rows for sentence in _sentences_of_row(block[0], row)]
            at += len(block)
        elif "--" in lines[at] and _RULE.match(lines[at]):
            at += 1
        else:
            out.append(_plain(lines[at]))
            at += 1
    return "\n".join(out)


def _cells(line: str, sign: str) -> list[str]:
    """The cells of a line, an empty one at either end left out."""
    if sign == " ":
        return [cell.strip() for cell in _SPACED.split(line.strip()) if cell.strip()]
    cells = [cell.strip() for cell in line.strip().split(sign)]
    while cells and not cells[0]:
        cells.pop(0)
    while cells and not cells[-1]:
        cells.pop()
    return cells


def _block(lines: list[str], at: int) -> list[list[str]]:
    """The rows of the table that begins at a line, its rules as empty rows."""
    line = lines[at]
    for sign in ("|", "\t", ";", " "):
        if (sign if sign != " " else "   ") not in line or at + 1 == len(lines):
            continue
        head = _cells(line, sign)
        if len(head) < 2:
            continue
        rows = [head]
        for line in lines[at + 1 :]:
            if sign in "|\t" and "-" in line and _RULE.match(line):
                rows.append([])
                continue
            cells = _cells(line, sign)
            if len(cells) < 2 or len(cells) > len(head):
                break
            rows.append(cells)
        if len(rows) > 1:
            return rows
    return []


def _is_header(cells: list[str]) -> bool:
    names = [cell.lower().rstrip(":") for cell in cells]
    known = _FINDINGS | _LOCATIONS | _SIDES | _OTHERS
    plain = all(len(name) < 24 and not any(c.isdigit() for c in name) for name in names)
    return (
        plain and (names[0] in known) and (len(names) == 2 or names[0] == "side" or sum(n in known for n in names) > 1)
    )


def _sentences_of_row(header: list[str], row: list[str]) -> Iterator[str]:
    names = [cell.lower().rstrip(":") for cell in header]
    cells = [*row, *[""] * (len(header) - len(row))]
    if _SIDES.issubset(names[1:]):
        for name, cell in zip(names[1:], cells[1:], strict=True):
            yield f"{name.capitalize()} {cells[0]}: {cell}." if name in _SIDES else f"{cells[0]}: {cell}."
    elif names[0] == "side":
        for name, cell in zip(header[1:], cells[1:], strict=True):
            if cell:
                yield f"No {cells[0]} {name}." if cell.lower() in _ABSENT else f"{cell} {cells[0]} {name}."
    else:
        location = next((i for i, name in enumerate(names) if name in _LOCATIONS), None)
        finding = next((i for i, name in enumerate(names) if name in _FINDINGS), None)
        if finding is not None and location is not None:
            cell, named = cells[finding], header[finding].rstrip("s")
            named = f"{cell} {named}" if _SIZE.match(cell) else cell if any(c.isalpha() for c in cell) else named
            rest = [cell for i, cell in enumerate(cells) if i not in (finding, location) and cell]
            yield f"{named} in {cells[location]}, {', '.join(rest)}." if rest else f"{named} in {cells[location]}."
        else:
            yield _joined([cell for cell in cells if cell])


def _plain(line: str) -> str:
    if "|" not in line and "\t" not in line:
        return line
    cells = [cell.strip() for cell in re.split(r"[|\t]", line) if cell.strip()]
    return _joined(cells) if len(cells) > 1 else " ".join(cells)


def _joined(cells: list[str]) -> str:
    if len(cells) < 2:
        return " ".join(cells)
    ended = cells[-1][-1:] in ".;:!?"
    return f"{cells[0].rstrip(':')}: {', '.join(cells[1:])}{'' if ended else '.'}"
