"""What objectives are fed with: samples of a step, drawn from a store's split ``train``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ctglip.data.captions import CaptionBuilder, OrganCaptions
from ctglip.data.cxr import CxrDataset, CxrDataSettings
from ctglip.data.cxr_organs import CxrOrganDataset
from ctglip.data.cxr_reader import CxrReader
from ctglip.data.organs import DataSettings, OrganDataset, findings_by_study
from ctglip.data.pairs import PairDataset
from ctglip.data.report_texts import organs_spoken_of
from ctglip.data.sampling import BalancedSampler, SamplingSettings
from ctglip.data.scan_reports import ScanReportDataset
from ctglip.data.studies import ScanDataSettings, StudyDataset
from ctglip.inference.scoring import Dictionaries
from ctglip.models.region_readers import RegionReaderSettings
from ctglip.objectives.base import InputKind
from ctglip.store.tables import Store
from ctglip.types import Failure, Progress
from ctglip.vocabulary.negatives import Strategy


class Source(Protocol):
    """Samples of each step.

    Attributes:
        texts: every text that can be drawn; ``bind`` gives their indices in the text bank.
        keys: what each text key stands for, where texts are said of organs.
        sayings: what is said of which organ.
        failures: studies that could not be read so far.
    """

    @property
    def texts(self) -> Sequence[str]: ...
    @property
    def keys(self) -> tuple[tuple[str, frozenset[str]], ...]: ...
    @property
    def captions(self) -> Sequence[OrganCaptions]: ...
    @property
    def failures(self) -> Sequence[Failure]: ...

    def bind(self, text_ids: Sequence[int], organ_names: Sequence[str]) -> None:
        """Take over the numbers that the text bank and the objective have for texts and organs."""

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Sequence[Any]:
        """A rank's share of the samples of a step: the same for the same seed, whatever came before."""
        ...

    def studies(self, step: int) -> list[str]:
        """The studies of a step's batch, of all ranks."""
        ...


@dataclass
class CropSource:
    """Crops of organs, drawn by a sampler."""

    dataset: OrganDataset
    sampler: BalancedSampler

    @property
    def texts(self) -> list[str]:
        """Every text that can be drawn."""
        return self.dataset.texts

    @property
    def keys(self) -> tuple[tuple[str, frozenset[str]], ...]:
        """What each text key stands for."""
        return self.dataset.keys

    @property
    def captions(self) -> Sequence[OrganCaptions]:
        """What is said of each crop's organ."""
        return self.dataset.captions

    @property
    def failures(self) -> Sequence[Failure]:
        """Studies that could not be read."""
        return self.dataset.cache.failures

    def bind(self, text_ids: Sequence[int], organ_names: Sequence[str]) -> None:
        """As ``Source`` says."""
        self.dataset.bind(text_ids, organ_names)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Sequence[Any]:
        """As ``Source`` says."""
        rng = self.sampler.rng(step)
        return self.dataset.samples(self.sampler.rows(rng), rng, rank, world)

    def studies(self, step: int) -> list[str]:
        """As ``Source`` says."""
        rows = self.sampler.rows(self.sampler.rng(step))
        return list(dict.fromkeys(self.dataset.cache.instances[row].study_id for row in rows))


@dataclass
class CxrSource:
    """Radiographs with their reports: as one text (``pairs``), or all that they say."""

    dataset: CxrDataset
    captions: Sequence[OrganCaptions]

    @property
    def texts(self) -> list[str]:
        """Every text that can be drawn."""
        return self.dataset.texts

    @property
    def keys(self) -> tuple[tuple[str, frozenset[str]], ...]:
        """None: texts are not said of one organ."""
        return ()

    @property
    def failures(self) -> Sequence[Failure]:
        """Radiographs that could not be read."""
        return self.dataset.failures

    @property
    def regions(self) -> tuple[str, ...]:
        """What ``region_id`` counts through."""
        return self.dataset.regions

    @property
    def tag_names(self) -> tuple[str, ...]:
        """Of ``tags``."""
        return self.dataset.tag_names

    def bind(self, text_ids: Sequence[int], organ_names: Sequence[str]) -> None:  # noqa: ARG002  (as the others have it)
        """As ``Source`` says."""
        self.dataset.bind(text_ids)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Sequence[Any]:
        """As ``Source`` says."""
        return self.dataset.samples(step, rank, world)

    def studies(self, step: int) -> list[str]:
        """As ``Source`` says."""
        return self.dataset.studies(step)


@dataclass(frozen=True)
class SourceSettings:
    """What decides what is drawn: the parts of a run's config that sources read.

    ``opened`` keeps what the sources of one run share.
    """

    data: DataSettings
    sampling: SamplingSettings
    scans: ScanDataSettings
    cxr: CxrDataSettings
    regions: RegionReaderSettings | None
    seed: int
    opened: dict[str, CxrReader] = field(default_factory=dict)


def open_source(
    feed: InputKind,
    store: Store,
    dictionaries: Dictionaries,
    settings: SourceSettings,
    strategy: Strategy,
    progress: Progress | None = None,
) -> Source:
    """The samples of a store's split ``train``.

    Args:
        feed: what is wanted.
        strategy: which negatives are drawn from the dictionary, if any.
        progress: called with (studies done, studies) while crops are cut or radiographs are read.

    Raises:
        StoreError: the split is empty, or has not what is wanted.
    """
    if store.info.modality == "cxr":
        return _radiographs(feed, store, dictionaries, settings, strategy, progress)
    data = _data(settings, strategy)
    split = (store, "train", dictionaries.organs, dictionaries.abnormalities, data)
    if feed == "pairs":
        return PairDataset(*split, settings.scans, settings.seed)
    if feed == "reports":
        masks = settings.regions is not None and settings.regions.name == "mask"
        return ScanReportDataset(*split, settings.scans, settings.seed, masks)
    assert settings.regions is not None
    if settings.regions.name == "crop":
        dataset = OrganDataset(*split, settings.seed, progress, strategy)
        return CropSource(dataset, BalancedSampler(dataset.captions, settings.sampling, settings.seed))
    return StudyDataset(*split, settings.scans, settings.seed, settings.regions.name, strategy)  # pyright: ignore[reportArgumentType]


def _radiographs(
    feed: InputKind,
    store: Store,
    dictionaries: Dictionaries,
    settings: SourceSettings,
    strategy: Strategy,
    progress: Progress | None,
) -> Source:
    """The radiographs of a store's split ``train``."""
    data = _data(settings, strategy)
    own, organs = settings.cxr, (dictionaries.organs, dictionaries.abnormalities)
    permuted = data.permute_texts and feed != "organs"
    reader = settings.opened.get("radiographs")
    dataset = CxrDataset(store, "train", own, settings.seed, True, progress, permuted, reader)
    settings.opened["radiographs"] = dataset.reader
    if feed == "organs":
        return CxrOrganDataset(dataset, store, *organs, data, strategy)
    findings = findings_by_study(store, set(dataset.study_ids))
    said = organs_spoken_of(findings, dataset.study_ids, CaptionBuilder(*organs, data.unmentioned_as_negative))
    return CxrSource(dataset, said)


def _data(settings: SourceSettings, strategy: Strategy) -> DataSettings:
    """The texts of organs, without negatives where none are compared with."""
    return settings.data if strategy not in ("none", "batch") else settings.data.model_copy(update={"negatives": 0})
