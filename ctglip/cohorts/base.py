"""What a reader of a public data set says of itself, and what it hands on: rows, exclusions, labels, organ text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ctglip.cohorts.disk import Disk
from ctglip.config import Settings, validate
from ctglip.files import read_yaml
from ctglip.types import ModalityName, Region

CohortCells = dict[str, str | None]
"""One row of the cohort table, by our column names."""
Brings = Literal["scans", "radiographs", "report", "organ_text", "labels", "masks", "boxes", "splits"]


class Card(Settings):
    """What a data set is, as ``ctglip cohort --list`` shows it.

    Attributes:
        title: its name as its makers write it.
        modality: of its images.
        brings: what of it ends up in our tables.
        source: where it is to be had.
        licence: and the terms; ``(?)`` where sources differ.
        size: of the download, and how many images.
        unconfirmed: what of its layout was never seen on disk; the reader says what it found.
    """

    title: str
    modality: ModalityName
    brings: tuple[Brings, ...]
    source: str
    licence: str
    size: str
    unconfirmed: tuple[str, ...] = ()


class ReaderData(Settings):
    """The data beside a reader: its card, and what its labels mean.

    Attributes:
        card: what the data set is.
        labels: our label -> their columns; 1 where any of them is.
        label_values: what their values mean; others are unknown and listed.
        lost: their columns that have no label of ours -> why.
        excluded: their names that are never taken -> why.
        without_masks: their names whose masks are never taken -> why.
        expects: the tables that it comes with, each by its names; in those ``*`` stands for anything.
        organs: what they call places -> our organ; ``null`` where it is none of ours.
        findings: what they call findings, or their codes -> our abnormality, or null.
    """

    card: Card
    labels: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    label_values: dict[str, int | None] = Field(default_factory=lambda: {"1": 1, "1.0": 1, "0": 0, "0.0": 0})
    lost: dict[str, str] = Field(default_factory=dict)
    excluded: dict[str, str] = Field(default_factory=dict)
    without_masks: dict[str, str] = Field(default_factory=dict)
    expects: tuple[tuple[str, ...], ...] = ()
    organs: dict[str, str | None] = Field(default_factory=dict)
    findings: dict[str, str | None] = Field(default_factory=dict)

    def columns_of(self, label: str) -> tuple[str, ...]:
        """Their columns of one of our labels."""
        columns = self.labels[label]
        return (columns,) if isinstance(columns, str) else columns


class CohortSettings(Settings):
    """What can be chosen of every data set.

    Attributes:
        leaks: what becomes of patients who stand in several splits. ``keep_test``: they stay in the most held out of
            them (test before val before train) and their other studies are excluded; ``move_to_train``: all of theirs
            goes to train; ``refuse``: an error that names them.
        missing: what becomes of rows whose image is not on the disk: they are excluded, or an error.
        lacking: what becomes of tables of the set that are not there: an error that names the first, or they are done
            without (a fact says so where what they bring is left out).
    """

    leaks: Literal["keep_test", "move_to_train", "refuse"] = "keep_test"
    missing: Literal["exclude", "refuse"] = "exclude"
    lacking: Literal["refuse", "allow"] = "refuse"


@dataclass(frozen=True)
class Exclusion:
    """One thing of the data set that is not in our table.

    Attributes:
        item: its name in the data set: a volume, a study, a row.
        reason: a short code, the same for all of a kind.
        detail: why, in words.
    """

    item: str
    reason: str
    detail: str


@dataclass(frozen=True)
class OrganSentence:
    """One sentence about one organ, made by others.

    Attributes:
        organ: name in the organ dictionary; None where theirs means none of it.
        sentence: verbatim.
        theirs: what they call the place.
        abnormality: name in the abnormality dictionary, where they say one.
        status: ``affirmed`` or ``negated``, where they say so.
        source: who made it.
    """

    study_id: str
    organ: str | None
    sentence: str
    theirs: str
    source: str
    abnormality: str | None = None
    status: str | None = None


@dataclass(frozen=True)
class Localization:
    """Where others drew one finding: what an answer's heat map can be held against.

    Attributes:
        theirs: what they call it, or their sentence.
        abnormality: name in the abnormality dictionary, None where it has none for it.
        organ: that it lies in, name in the organ dictionary, where they say so.
        box: rows from and to, columns from and to, in pixels of a radiograph, half-open.
        centre_mm: x, y, z in RAS millimetres of a scan.
        diameter_mm: of the lesion.
        mask: file that it is drawn in, relative to the data set's folder, and which layer (or outline) of it.
    """

    study_id: str
    theirs: str
    abnormality: str | None = None
    box: tuple[int, ...] | None = None
    centre_mm: tuple[float, float, float] | None = None
    diameter_mm: float | None = None
    mask: str | None = None
    layer: int | None = None
    organ: str | None = None


@dataclass
class CohortTables:
    """A data set in our form.

    Attributes:
        rows: of the cohort table; paths are relative to the data set's folder, or absolute.
        labels: by study.
        regions: boxes on radiographs, by study.
        organ_text: sentences by organ.
        localization: where findings were drawn.
        pictures: masks that are no files of the data set, by the path below the output folder that they are
            written to; each is drawn when it is written, uint8 ``[row, column]``.
        documents: JSON files likewise, each made when it is written.
        excluded: what is not taken, and why.
        facts: what was found and taken, in sentences: layouts, versions, HU, tables that are not there.
        lost: their labels that have none of ours -> why.
    """

    rows: list[CohortCells] = field(default_factory=list)
    labels: dict[str, dict[str, int | None]] = field(default_factory=dict)
    regions: dict[str, list[Region]] = field(default_factory=dict)
    organ_text: list[OrganSentence] = field(default_factory=list)
    localization: list[Localization] = field(default_factory=list)
    pictures: dict[str, Callable[[], np.ndarray]] = field(default_factory=dict)
    documents: dict[str, Callable[[], Any]] = field(default_factory=dict)
    excluded: list[Exclusion] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)

    def exclude(self, item: str, reason: str, detail: str) -> None:
        """Note that something is not taken."""
        self.excluded.append(Exclusion(item, reason, detail))


class CohortReader(ABC):
    """Reads one data set. A subclass is one file with a YAML of the same name beside it (``ReaderData``).

    Attributes:
        name: as the command takes it; also the name of the YAML.
        Settings: what can be chosen of it.
        leaves: names of folders whose files need not be listed (a regular expression).
        private_names: folders and files may be named by patients or UIDs: no path of them is written down.
    """

    name: str
    leaves: ClassVar[str] = ""
    private_names: ClassVar[bool] = False
    Settings: ClassVar[type[CohortSettings]] = CohortSettings

    @cached_property
    def data(self) -> ReaderData:
        """The data beside the reader."""
        path = Path(__file__).with_name(f"{self.name}.yaml")
        return validate(ReaderData, read_yaml(path), path.name)

    @property
    def card(self) -> Card:
        """What the data set is."""
        return self.data.card

    def expects(self, settings: Any) -> tuple[tuple[str, ...], ...]:
        """The tables that the set comes with, each by its names, as these settings need them."""
        del settings
        return self.data.expects

    def for_output(self, settings: Any, root: Path, out: Path) -> Any:
        """The settings, completed by where the data set lies and where its tables will.

        Raises:
            CohortError: the folders cannot be had together.
        """
        del root, out
        return settings

    @abstractmethod
    def read(self, disk: Disk, settings: Any) -> CohortTables:
        """The data set in our form.

        Args:
            disk: the folder that it was unpacked into.
            settings: an instance of the reader's ``Settings``.

        Raises:
            CohortError: nothing of the data set is there, or a table that cannot be done without is not.
        """
