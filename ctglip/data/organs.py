"""Organ-text pairs of a split: crops, and at each step a text that is true of the organ and texts that are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Int

from ctglip.data.augment import AugmentationParameters, AugmentSettings, augment_crop, draw_augmentations
from ctglip.data.caption_tables import CaptionTable
from ctglip.data.captions import OrganCaptions, draw_text
from ctglip.data.collate import column, integer_column
from ctglip.data.crops import CropSettings, OrganCrop
from ctglip.data.dataset import LoaderBatch, TextDataset, TextIds, names_of, number_texts
from ctglip.data.false_texts import Negatives
from ctglip.data.organ_crops import CacheSettings, open_crops
from ctglip.data.rendering import CropStack
from ctglip.data.samples import NO_TEXT, OrganSample
from ctglip.data.sampling import BalancedSampler, SamplingSettings, rows_of_rank
from ctglip.data.scans import ScanDataSettings, ScansBesideCrops, ScanSettings
from ctglip.data.settings import WITHOUT_TEXTS, DataSettings
from ctglip.data.split_tables import Organs, caption_rules, present_organs, split_captions, split_instances
from ctglip.errors import StoreError
from ctglip.modality import MODALITIES
from ctglip.store.tables import Store
from ctglip.types import Failure, Progress
from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.negatives import Strategy
from ctglip.vocabulary.organs import OrganDictionary


class CropDataSettings(DataSettings):
    """Training on crops of organs.

    Attributes:
        crops: how an organ becomes an input.
        cache: where crops stay between steps.
        augment: small changes of crops in training.
        sampling: what a batch is made of.
        held_out: abnormalities that are not to be taught, to ask later about what was never seen: crops of organs in
            which a report affirms one are left out.
        scans: whole scans beside the crops, for a mixture of which a part reads them; null: none.
    """

    name: Literal["crops"] = "crops"  # pyright: ignore[reportIncompatibleVariableOverride]
    crops: CropSettings = CropSettings()
    cache: CacheSettings = CacheSettings()
    augment: AugmentSettings = AugmentSettings()
    sampling: SamplingSettings = SamplingSettings()
    held_out: tuple[str, ...] = ()
    scans: ScansBesideCrops | None = None

    @property
    def channels(self) -> int:
        """Channels of a crop; a scan beside crops has zeros in those that only crops have."""
        return self.crops.channels

    def whole_scans(self) -> ScanDataSettings | None:
        """The scans as data of their own: the same texts, and the windows of the crops, as one encoder sees both."""
        if self.scans is None:
            return None
        windows = {"input": ScanSettings(windows_hu=self.crops.windows_hu, **self.scans.input.model_dump())}
        texts = {name: getattr(self, name) for name in DataSettings.model_fields if name != "name"}
        return ScanDataSettings(**texts, truncated=self.crops.truncated, **{**dict(self.scans), **windows})


class OrganTexts:
    """Captions of many organs, and what a step draws of them: a text that is true, and texts that are false.

    Args:
        captions: of each organ.
        settings: how texts are drawn.
        strategy: which dictionary negatives are drawn.
        seed: of the permutation, where one is asked for.
        where: whose reports they are, for the message.
        text_ids: numbers texts (see ``number_texts``).

    Attributes:
        captions: of each organ.
        texts, keys, text_ids: as of ``TextDataset``.

    Raises:
        StoreError: code ``no_texts``: no report mentions any of the organs.
    """

    def __init__(
        self,
        captions: CaptionTable,
        settings: DataSettings,
        strategy: Strategy,
        seed: int,
        where: str,
        text_ids: TextIds | None = None,
    ) -> None:
        self.settings = settings
        if not captions.taught.with_text:
            message = f"No report of {where} says anything of the wanted organs."
            raise StoreError(message, code="no_texts", fix=WITHOUT_TEXTS)
        self.captions = captions.permuted(np.random.default_rng(seed)) if settings.permute_texts else captions
        self.negatives = Negatives(captions.paraphrases, strategy)
        self.texts, self.keys = captions.texts, captions.keys
        self.text_ids = number_texts(self.texts, text_ids)

    def draw(
        self, captions: OrganCaptions, rng: np.random.Generator, taken: dict[int, int]
    ) -> tuple[int, int, Int[np.ndarray, " k"]]:
        """A true text, its key, and texts that are false; all ``NO_TEXT`` where the report does not mention the organ.

        Args:
            taken: the key of each text that the batch holds; the text drawn is entered.
        """
        settings = self.settings
        text, key = draw_text(captions, settings.dictionary_wording, rng, taken)
        false = np.full(settings.negatives, NO_TEXT, dtype=np.int64)
        if text != NO_TEXT:
            taken[text] = key
            false = self.negatives.draw(captions, settings.negatives, settings.report_wording, rng)
        return int(self.text_ids[text]), key, self.text_ids[false]


class OrganDataset(TextDataset[OrganSample]):
    """All (study, organ) pairs of one split: a torch dataset, whose ``collate`` a ``DataLoader`` takes.

    Args:
        store: where the scans and findings are.
        split: train, val or test.
        organs, abnormalities: the dictionaries.
        settings: what is wanted.
        seed: of all that ``batch`` draws, and of the permutation, where one is asked for.
        progress: called with (studies done, studies) while crops are cut.
        strategy: which dictionary negatives are drawn.
        text_ids: numbers texts (see ``number_texts``).
        organ_names: what organ ids count through; all organs of the dictionary where it is None.

    Attributes:
        reader: of the crops.
        instances: the organs, by row.

    Raises:
        StoreError: the split is empty, has no wanted organ, or no report that says anything of one.
    """

    def __init__(
        self,
        store: Store,
        split: str,
        organs: OrganDictionary,
        abnormalities: AbnormalityDictionary,
        settings: CropDataSettings,
        seed: int = 0,
        progress: Progress | None = None,
        strategy: Strategy = "same_organ",
        text_ids: TextIds | None = None,
        organ_names: Sequence[str] | None = None,
    ) -> None:
        check_modality(store, settings)
        self.settings = settings
        study_ids = studies_of(store, split)
        names = [organs[name].name for name in settings.organs or trainable_organs(store, organs, abnormalities)]
        instances = split_instances(store, study_ids, names, settings.crops)
        rules = caption_rules(
            organs, abnormalities, settings.unmentioned_as_negative, settings.augment.mirror > 0, settings.held_out
        )
        captions = split_captions(store, Organs(study_ids, names, instances.study, instances.organ), rules)
        if settings.held_out:
            rows = np.flatnonzero(captions.profile >= 0)
            instances, captions = instances.take(rows), captions.take(rows)
        if not len(instances):
            raise no_organs(store, split)
        self.reader = open_crops(store, instances, settings.crops, organs, settings.cache, settings.threads)
        self.reader.preload(progress=progress)
        self.instances = instances
        where = f"the split {split!r} of {store.path}"
        self.organ_texts = OrganTexts(captions, settings, strategy, seed, where, text_ids)
        self.captions, self.keys = self.organ_texts.captions, self.organ_texts.keys
        self.taught = self.captions.taught
        self.texts, self.text_ids = self.organ_texts.texts, self.organ_texts.text_ids
        self.sampler = BalancedSampler(self.captions.pools(), settings.sampling, seed)
        self._organ_ids = {name: number for number, name in enumerate(organ_names or organs.names)}

    def __len__(self) -> int:
        return len(self.instances)

    @property
    def failures(self) -> Sequence[Failure]:
        """Studies that could not be read so far."""
        return self.reader.failures

    def batch(self, step: int, rank: int = 0, world: int = 1) -> list[OrganSample]:
        """A rank's share of the samples of a step."""
        rng = self.sampler.rng(step)
        return self.samples(self.sampler.rows(rng), rng, rank, world)

    def studies(self, step: int) -> list[str]:
        """The studies of a step's batch, of all ranks."""
        rows = self.sampler.rows(self.sampler.rng(step))
        return list(dict.fromkeys(self.instances[row].study_id for row in rows))

    def sampled(self, rows: Sequence[int], seed: int) -> list[OrganSample]:
        """Samples of some rows; a row whose study is damaged gives its place to another of its organ."""
        return self.samples(rows, np.random.default_rng(seed))

    def collate(self, samples: Sequence[OrganSample]) -> LoaderBatch:
        """``image [b, c, x, y, z]``, ``mask [b, 1, x, y, z]``, ``size [b, 4]``, ``organ`` (names), ``text`` (None where
        nothing is said), ``negatives`` (texts that are false), and the samples' numbers."""
        crops = CropStack.of([sample.crop for sample in samples], self.settings.crops).to("cpu")
        names = ("organ_id", "study_index", "text_id", "text_key", "row")
        integers = {name: integer_column(samples, name) for name in names}
        return {
            "image": crops.image,
            "mask": crops.mask,
            "size": column(samples, "size"),
            "organ": names_of(integers["organ_id"], self._organ_ids),
            "text": self.text_of(integers["text_id"]),
            "negatives": [self.text_of(sample.negative_ids) for sample in samples],
            **integers,
        }

    def samples(
        self, rows: Sequence[int], rng: np.random.Generator, rank: int = 0, world: int = 1
    ) -> list[OrganSample]:
        """Samples of one batch, all chance drawn from ``rng``.

        The same is drawn for any number of ranks, and each makes the images of its own share (``rows_of_rank``). A row
        whose study is damaged gives its place to the next of its organ, of the same kind where there is one.

        Args:
            rows: of the whole batch.
        """
        settings, rows = self.settings, list(rows)
        parameters = draw_augmentations(len(rows), settings.augment, rng)
        share = rows_of_rank(range(len(rows)), rank, world)
        crops = self.reader.read([self.instances[rows[number]] for number in share])
        in_batch = set(rows)
        for position, number in enumerate(share):
            if crops[position] is None:
                rows[number], crops[position] = self._substitute(rows[number], in_batch)
        captions = [self._captions(row, one) for row, one in zip(rows, parameters, strict=True)]
        taken: dict[int, int] = {}
        texts = [self.organ_texts.draw(one, rng, taken) for one, _ in captions]
        return [
            self._sample(crop, rows[number], *captions[number], *texts[number])
            for crop, number in zip(crops, share, strict=True)
            if crop is not None
        ]

    def _sample(
        self,
        crop: OrganCrop,
        row: int,
        captions: OrganCaptions,
        parameters: AugmentationParameters,
        text_id: int,
        text_key: int,
        negative_ids: Int[np.ndarray, " k"],
    ) -> OrganSample:
        augmented, applied = augment_crop(crop, parameters, self.settings.augment.noise_hu)
        return OrganSample(
            crop=augmented,
            settings=self.settings.crops,
            parameters=applied,
            organ_id=self._organ_ids[captions.organ],
            study_index=int(self.instances.study[row]),
            text_id=text_id,
            text_key=text_key,
            negative_ids=negative_ids,
            sentence_ids=self.text_ids[list(captions.sentences)],
            row=row,
        )

    def _captions(self, row: int, parameters: AugmentationParameters) -> tuple[OrganCaptions, AugmentationParameters]:
        """Captions of a row's organ after augmentation; without a mirror image where captions have none."""
        captions = self.captions[row]
        mirrored = self.captions.mirrored(row) if parameters.mirrored else None
        if parameters.mirrored and (mirrored is None or mirrored.organ not in self._organ_ids):
            return captions, replace(parameters, mirrored=False)
        return mirrored or captions, parameters

    def _substitute(self, row: int, taken: set[int]) -> tuple[int, OrganCrop]:
        """Another row of the same organ that can be read, and its crop: those of the same kind first, each kind from
        this row on; it is entered in ``taken``.

        Raises:
            StoreError: code ``damaged_store``: there is none.
        """
        kinds, organs = self.captions.kind, self.captions.organ
        rows = np.flatnonzero(organs == organs[row])
        after = np.concatenate([rows[rows > row], rows[rows < row]])
        for other in after[np.argsort(kinds[after] != kinds[row], kind="stable")].tolist():
            if other not in taken:
                (crop,) = self.reader.read([self.instances[other]])
                if crop is not None:
                    taken.add(other)
                    return other, crop
        instance = self.instances[row]
        reasons = {failure.study_id: failure.message for failure in self.failures}
        raise StoreError(
            f"The organ {instance.organ} of study {instance.study_id} cannot be read, and no other study's can "
            f"stand in for it: {reasons[instance.study_id]}",
            code="damaged_store",
            fix="Run: ctglip store verify STORE --repair",
        )


def check_modality(store: Store, settings: DataSettings) -> None:
    """Refuse a store of other images than the settings are for.

    Raises:
        StoreError: code ``other_modality``.
    """
    if store.info.modality != settings.modality:
        kinds = {"ct": "crops or scans", "cxr": "cxr"}
        raise StoreError(
            f"{store.path} holds {store.info.modality}, and data.name is {settings.name}.",
            code="other_modality",
            fix=f"Take a config whose data.name is {kinds[store.info.modality]}.",
        )


def studies_of(store: Store, split: str, most: int | None = None) -> list[str]:
    """Ids of a split's studies, sorted: all, or where there are more than ``most`` so many, the same each time.

    Raises:
        StoreError: there are none.
    """
    found = store.table("splits").filter(pl.col("split") == split)["study_id"].sort().to_list()
    if not found:
        raise StoreError(
            f"The split {split!r} of {store.path} is empty.",
            code="empty_split",
            fix="Give studies a split in the cohort table, or preprocess more patients.",
        )
    if most is None or len(found) <= most:
        return found
    return [found[row] for row in sorted(np.random.default_rng(0).choice(len(found), most, replace=False))]


def no_organs(store: Store, split: str) -> StoreError:
    """Why a split has no organ to train on."""
    if MODALITIES[store.info.modality].needs_masks and store.table("organs").is_empty():
        who = f"None of the {len(store.study_ids)} studies of {store.path} has"
        if store.table("findings").is_empty():
            return StoreError(f"{who} a report or organ masks.", code="no_texts", fix=WITHOUT_TEXTS)
        return StoreError(
            f"{who} organ masks, so there is no organ to train on.",
            code="no_masks",
            fix="Preprocess into a new store with masks (the cohort's column masks), or without the setting "
            "ct.segmentation=null, so that TotalSegmentator draws them.",
        )
    return StoreError(f"None of the wanted organs is in the split {split!r} of {store.path}.", code="no_organs")


def trainable_organs(store: Store, organs: OrganDictionary, abnormalities: AbnormalityDictionary) -> tuple[str, ...]:
    """Organs of the store that have an abnormality in the dictionary, in dictionary order."""
    present = present_organs(store)
    return tuple(name for name in organs.names if name in present and abnormalities.of_organ(name))
