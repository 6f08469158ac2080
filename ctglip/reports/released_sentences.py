"""Entity sentences that others distilled and released, by study: ECAMP's ``MIMIC-Vicuna.json`` and its CSV.

The files name studies of MIMIC-CXR by number (``s50414267``) or by the path of a radiograph; a store names radiographs.
A cohort table, whose ``image`` paths hold both, brings them together.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ctglip.errors import ConfigError

_TEXTS = ("llm_output", "vicuna_output", "output", "sentences")
_KEYS = ("study_id", "img_path", "image", "path", "id")
_STUDY = re.compile(r"(?:^|\D)s?(\d{8})(?:\D|$)")
_IN_PATH = re.compile(r"(?:^|/)s(\d{8})(?:/|\.|$)")


def read_released(file: Path, cohort: Path | None = None) -> dict[str, str]:
    """The sentences of each study, as one text, by the name that a store has for it.

    Args:
        file: JSON (study to text or list of texts, or a list of records) or CSV; records have one of the columns
            ``llm_output``, ``vicuna_output``, ``output``, ``sentences``, and one of ``study_id``, ``img_path``,
            ``image``, ``path``, ``id``.
        cohort: cohort table (CSV with ``study_id`` and ``image``) that says which radiograph belongs to which study;
            None: names in the file are those of the store.

    Raises:
        ConfigError: code ``released_sentences``: a file that is not there or has another form, or in which no study of
            the cohort is found.
    """
    try:
        text = file.read_text(encoding="utf-8")
        rows = _of_csv(text.splitlines()) if file.suffix.lower() == ".csv" else _of_json(json.loads(text))
        found = {_number(key): sentences for key, sentences in rows if sentences}
        if cohort is None:
            names = {name: name for name in found}
        else:
            with cohort.open(encoding="utf-8", newline="") as lines:
                names = {row["study_id"]: _number(row["image"]) for row in csv.DictReader(lines)}
    except (OSError, UnicodeDecodeError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"The sentences in {file} cannot be read: {str(error) or type(error).__name__}",
            code="released_sentences",
            fix="Give JSON (study to text) or a CSV with study_id (or img_path) and llm_output.",
        ) from error
    matched = {name: found[number] for name, number in names.items() if number in found}
    if not matched:
        raise ConfigError(
            f"{file} has sentences of {len(found)} studies"
            + (f", and none of them is in {cohort}." if cohort else "."),
            code="released_sentences",
            fix="Set objective.entities.cohort to the cohort table whose image paths name them (.../s12345678/...).",
        )
    return matched


def _of_csv(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    yield from map(_record, csv.DictReader(lines))


def _of_json(tree: Any) -> Iterator[tuple[str, str]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield str(key), _joined(value.get(_first(value, _TEXTS)) if isinstance(value, Mapping) else value)
        return
    yield from map(_record, tree)


def _record(row: Mapping[str, Any]) -> tuple[str, str]:
    return str(row[_first(row, _KEYS)]), _joined(row[_first(row, _TEXTS)])


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    for name in names:
        if name in row:
            return name
    raise ValueError(f"a record has none of {', '.join(names)}")


def _joined(value: Any) -> str:
    parts = [value] if isinstance(value, str) else list(value or ())
    if not all(isinstance(part, str) for part in parts):
        raise ValueError("sentences are text or lists of text")
    return " ".join(" ".join(parts).split())


def _number(name: str) -> str:
    """The number of a study of MIMIC-CXR where a name or a path holds one; the name else."""
    found = _IN_PATH.search(name) or (_STUDY.search(name) if "/" not in name and len(name) <= 9 else None)
    return found.group(1) if found else name
