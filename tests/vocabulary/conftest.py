"""The shipped dictionaries, and small ones made up for a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ctglip.types import Finding, Laterality, Status
from ctglip.vocabulary.abnormalities import AbnormalityDictionary, load_abnormalities
from ctglip.vocabulary.organs import OrganDictionary, load_organs

ORGANS = """\
version: 1
organs:
  kidneys:
    display: kidneys
    plural: true
    group: kidneys
    parts: [kidney_left, kidney_right]
    synonyms: [kidney]
  kidney_left: {display: left kidney, side: left, label: 3, group: kidneys}
  kidney_right: {display: right kidney, side: right, label: 2, group: kidneys}
"""


@pytest.fixture(scope="session")
def organs() -> OrganDictionary:
    """The shipped organ dictionary."""
    return load_organs()


@pytest.fixture(scope="session")
def abnormalities() -> AbnormalityDictionary:
    """The shipped abnormality dictionary."""
    return load_abnormalities()


@pytest.fixture
def small(tmp_path: Path) -> Callable[[str], tuple[Path, Path]]:
    """Writes a dictionary of three organs and the abnormalities given as YAML lines; returns both paths."""

    def write(entries: str, organs_text: str = ORGANS) -> tuple[Path, Path]:
        organs_path, abnormalities_path = tmp_path / "organs.yaml", tmp_path / "abnormalities.yaml"
        organs_path.write_text(organs_text)
        lines = "".join(f"  {line}\n" for line in entries.strip().splitlines())
        abnormalities_path.write_text(f"version: 1\nabnormalities:\n{lines}")
        return organs_path, abnormalities_path

    return write


@pytest.fixture(scope="session")
def row() -> Callable[..., Finding]:
    """A finding about an organ; its sentence can be anything."""

    def make(
        organ: str | None,
        abnormality: str | None,
        status: Status = "affirmed",
        laterality: Laterality | None = None,
        sentence: str = "A sentence.",
    ) -> Finding:
        return Finding(0, "findings", sentence, organ, abnormality, status, laterality)

    return make
