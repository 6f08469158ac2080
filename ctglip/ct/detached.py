"""Headers whose voxels lie in other files: MetaImage (``.mhd``) and NRRD with a detached header (``.nhdr``)."""

from __future__ import annotations

import re
from pathlib import Path

from ctglip.files import files_below

_KEYS = {".mhd": "elementdatafile", ".nhdr": "datafile", ".nrrd": "datafile"}
_HEADER_BYTES = 1 << 20
_MOST_FILES = 100_000


def data_files(path: Path) -> list[Path]:
    """The files that a header names as those of its voxels, as far as they are there: one, a list of them, or those
    that a pattern and its numbers make. None for a file that holds its own voxels, or that cannot be read.

    Args:
        path: any file; those without a suffix of such headers are not opened.
    """
    key = _KEYS.get(path.suffix.lower())
    if key is None:
        return []
    try:
        with path.open("rb") as stream:
            lines = stream.read(_HEADER_BYTES).split(b"\n")
    except OSError:
        return []
    for number, raw in enumerate(lines):
        line = raw.decode("utf-8", "replace").strip()
        if not line and number:
            break  # what follows in a .nrrd are its voxels
        name, found, value = re.split(r"([:=])", line, maxsplit=1) if re.search(r"[:=]", line) else (line, "", "")
        if found and name.replace(" ", "").lower() == key:
            rest = [one.decode("utf-8", "replace").strip() for one in lines[number + 1 :]]
            files = [path.parent / one for one in _named(value.removeprefix("=").strip(), rest)]
            return [file for file in files if file.is_file()]
    return []


def detached_files(path: Path) -> list[Path]:
    """The files of voxels that headers alone name, of a file or of those of a folder, which do not lie below it."""
    below = dict.fromkeys(files_below(path))
    return [data for file in below for data in data_files(file) if data not in below]


def _named(value: str, rest: list[str]) -> list[str]:
    """The names that the value of the header's field means; ``rest``: the lines after it."""
    if value.upper() == "LOCAL":
        return []
    if re.match(r"LIST\b", value, re.IGNORECASE):
        return [line for line in rest if line]
    pattern = re.fullmatch(r"(.*%0?\d*d\S*)\s+(-?\d+)\s+(-?\d+)\s+([1-9]\d*)(?:\s+\d+)?", value)
    if pattern is None:
        return [value]
    first, last, step = (int(number) for number in pattern.groups()[1:])
    return [pattern[1] % number for number in range(first, min(last, first + _MOST_FILES * step) + 1, step)]
