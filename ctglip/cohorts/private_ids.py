"""Ids that say nothing of the patient: keyed hashes (HMAC-SHA256), the file that holds the key, and texts without the
values that stand in headers."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

from ctglip.errors import CohortError

_LEAST_KEY = 32
_DIGITS = 16
MASK = "___"


class PrivateIds:
    """Hashes of one key. The same key gives the same ids.

    Args:
        key: secret bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def make(self, kind: str, *values: str) -> str:
        """An id of 16 hexadecimal digits; ``kind`` keeps equal values of different meaning apart."""
        text = "\0".join((kind, *values))
        return hmac.new(self._key, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:_DIGITS]


def load_key(path: Path) -> bytes:
    """The key of a file, made with mode 0600 where there is none.

    Raises:
        CohortError: ``bad_key``: too short, readable by others, or it cannot be read or written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="ascii") as stream:
                stream.write(secrets.token_hex(32) + "\n")
        mode = path.stat().st_mode
        key = path.read_bytes().strip()
    except OSError as error:
        raise CohortError(f"The key {path} cannot be read or made: {error.strerror}.", code="bad_key") from error
    if mode & 0o077:
        raise CohortError(f"Others may read the key {path}.", code="bad_key", fix=f"chmod 600 {path}")
    if len(key) < _LEAST_KEY:
        raise CohortError(
            f"The key {path} has {len(key)} bytes, expected at least {_LEAST_KEY}.",
            code="bad_key",
            fix="Remove it to have one made; ids then change.",
        )
    return key


class Masker:
    """Takes the values of one study's headers out of its report: whole words, in any case.

    Args:
        values: ids, accession numbers, UIDs.
        names: of people, as DICOM writes them (``family^given``).
        dates: as DICOM writes them (``YYYYMMDD``).
    """

    def __init__(self, values: Iterable[str], names: Iterable[str], dates: Iterable[str]) -> None:
        parts = {part.strip("'-") for name in names for part in re.findall(r"[^\W\d_][\w'-]{2,}", name)}
        forms = {value.strip() for value in values if len(value.strip()) > 2} | parts
        for date in dates:
            if match := re.fullmatch(r"(\d{4})(\d\d)(\d\d)", date.strip()):
                forms |= _date_forms(*match.groups())
        words = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
        self._pattern = re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE) if words else None

    def __call__(self, text: str) -> tuple[str, int]:
        """The text with every value as ``___``, and how many there were."""
        return (text, 0) if self._pattern is None else self._pattern.subn(MASK, text)


def _date_forms(year: str, month: str, day: str) -> set[str]:
    forms = {year + month + day}
    for m, d in ((month, day), (month.lstrip("0"), day.lstrip("0"))):
        forms |= {f"{year}{mark}{m}{mark}{d}" for mark in "-./"}
        forms |= {f"{first}{mark}{second}{mark}{y}" for first, second in ((d, m), (m, d)) for mark in "-./"
                  for y in (year, year[2:])}  # fmt: skip
    return forms
