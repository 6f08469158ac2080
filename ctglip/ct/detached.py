"""Headers whose voxels lie in other files: MetaImage (``.mhd``) and NRRD with a detached header (``.nhdr``)."""

from __future__ import annotations

import re
from pathlib import Path

from ctglip.ct.voxels import lies_beside
from ctglip.files import files_below

_KEYS = {".mhd": "elementdatafile", ".nhdr": "datafile", ".nrrd": "datafile"}
HEADER_BYTES = 1 << 20
_MOST_FILES = 100_000
_PATTERN = re.compile(r"([^%]*%0?\d{0,2}d[^%\s]*)\s+(-?\d{1,9})\s+(-?\d{1,9})\s+([1-9]\d{0,8})(?:\s+\d+)?")


def data_files(path: Path) -> list[Path]:
    """The files that a header names as those of its voxels, as far as they are there and in its folder: one, a list of
    them, or those that a pattern and its numbers make. None for a file that holds its own voxels, or cannot be read.

    Args:
        path: any file; those without a suffix of such headers are not opened.
    """
    key = _KEYS.get(path.suffix.lower())
    if key is None:
        return []
    try:
        with path.open("rb") as stream:
            lines = stream.read(HEADER_BYTES).split(b"\n")
    except (OSError, ValueError):
        return []
    for number, raw in enumerate(lines):
        line = raw.decode("utf-8", "replace").strip()
        if not line and number:
            break  # what follows in a .nrrd are its voxels
        name, found, value = re.split(r"([:=])", line, maxsplit=1) if re.search(r"[:=]", line) else (line, "", "")
        if found and name.replace(" ", "").lower() == key:
            rest = [one.decode("utf-8", "replace").strip() for one in lines[number + 1 :]]
            names = named_files(value.removeprefix("=").strip(), rest)
            return [file for one in names if lies_beside(path, one) and (file := path.parent / one).is_file()]
    return []


def detached_files(path: Path) -> list[Path]:
    """The files of voxels that headers alone name, of a file or of those of a folder, which do not lie below it."""
    below = dict.fromkeys(files_below(path))
    return [data for file in below for data in data_files(file) if data not in below]


def named_files(value: str, rest: list[str]) -> list[str]:
    """The names that the value of a header's field means, none where the voxels follow the header; ``rest``: the lines
    after it."""
    if value.upper() == "LOCAL":
        return []
    if re.match(r"LIST\b", value, re.IGNORECASE):
        return [line for line in rest[:_MOST_FILES] if line]
    pattern = _PATTERN.fullmatch(value)
    if pattern is None:
        return [value]
    first, last, step = (int(number) for number in pattern.groups()[1:])
    return [pattern[1] % number for number in range(first, min(last, first + _MOST_FILES * step) + 1, step)]
