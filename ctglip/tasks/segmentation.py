"""Segmentation: an organ or a drawn finding on radiographs, by a head on a radiograph model's encoder; its truth is
what the store has drawn. The metric is Dice, of which published protocols have several:

``dice_pos``: the mean over radiographs that show the target. ``dice_all``: over all radiographs; one that does not show
it counts 1 if nothing was drawn and else 0 (MGCA's, which averages batches: ``dice_batches``). ``mdice``: target and
rest, each over the pixels of all radiographs (BenchX's).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn

from ctglip.cxr.standardize import resized
from ctglip.data.cxr import CxrInput, CxrInputSettings, cxr_input, stored_edge
from ctglip.data.cxr_window import cxr_window
from ctglip.data.reader import CachedReader
from ctglip.errors import ModelError
from ctglip.evaluation.bootstrap import interval_of, weighted_mean
from ctglip.files import read_json
from ctglip.inference.cxr_reader import RadiographOrganReader
from ctglip.inference.encoding import evaluating
from ctglip.inference.feature_cache import check_recipe
from ctglip.inference.model_readers import reader_of
from ctglip.models.release import Release, load_release
from ctglip.store.mask_classes import class_map, mask_classes
from ctglip.store.tables import Store
from ctglip.tasks.base import Initialization, Task, TaskBatch, TaskObjective, in_batches, release_with_encoder
from ctglip.tasks.masked_studies import masked_studies
from ctglip.tasks.network import initial_model
from ctglip.tasks.results import BootstrapPatients, FinishedRun, TaskResults, compare_runs
from ctglip.tasks.segmentation_heads import SegmentationNetwork, compare_masks, pooled_dice, segmentation_loss
from ctglip.tasks.settings import SegmentationConfig, SegmentationTaskSettings
from ctglip.tasks.studies import VAL, Studies
from ctglip.training.callbacks import Callbacks
from ctglip.types import Interval
from ctglip.vocabulary.organs import load_organs

MaskedRadiograph = tuple[CxrInput, Bool[np.ndarray, "e e"] | None]
"""A radiograph, and where the target is on its pixels; None where nobody drew it."""
_COUNTS = ("tp", "fp", "fn", "tn")


class Segmentation(Task[SegmentationConfig]):
    """One thing on radiographs.

    Args:
        config: of the fine-tuning.
        studies: radiographs that have masks.
        images: each radiograph, and where the target is on its pixels.
        size: of the windows that the model reads.
    """

    head_file = "segmentation"

    def __init__(
        self,
        config: SegmentationConfig,
        studies: Studies,
        images: CachedReader[str, MaskedRadiograph],
        size: int,
    ) -> None:
        super().__init__(config, studies)
        self.images, self.size, self.score = images, size, config.segmentation.score

    @classmethod
    def open(
        cls,
        store: Store,
        initializations: Sequence[Initialization],
        config: SegmentationConfig,
        labels: Path | None,  # noqa: ARG003
        callbacks: Callbacks,
    ) -> Segmentation:
        """Read radiographs and masks."""
        for one in initializations:
            check_recipe(store, one.release)
        release, settings = initializations[0].release, config.segmentation
        window = _window(release)
        classes = mask_classes([settings.target], store, load_organs(release.organ_dictionary / "organs.yaml"))

        def load(name: str, _: Sequence[str]) -> list[MaskedRadiograph]:
            study = store.study(name)
            image, labels = cxr_input(study.image(), window), class_map(study, classes, settings.undrawn)
            mask = None if labels is None else resized(labels.astype(np.float32), image.pixels.shape)
            return [(image, None if mask is None else mask >= 0.5)]

        capacity = int(config.fit.keep_gb * 1e9 / (3 * stored_edge(window) ** 2))
        images = CachedReader(load, sorted(store.study_ids), str, capacity, config.fit.threads)
        progress = partial(callbacks.prepare, "Reading radiographs")
        found = {
            name: None if mask is None else frozenset({1} if mask.any() else ())
            for name, (_, mask) in images.readable(progress=progress)
        }
        studies = masked_studies(store, found, images.failures, [settings.target], "radiograph")
        return cls(config, studies, images, window.size)

    def network(self, initialization: Initialization, rows: Int[np.ndarray, " n"]) -> SegmentationNetwork:  # noqa: ARG002
        """The model's encoder, left as it is by ``mode: probe``, and a head."""
        encoder = initial_model(initialization).encoder
        return SegmentationNetwork(encoder, self.config.segmentation, initialization.mode == "probe")

    def loss(self, rows: Int[np.ndarray, " n"]) -> Callable[[Tensor, Tensor], Tensor]:  # noqa: ARG002
        """As the settings say."""
        return segmentation_loss(self.config.segmentation)

    def batch(
        self,
        initialization: Initialization,  # noqa: ARG002
        rows: Int[np.ndarray, " n"],
        rng: np.random.Generator | None,
    ) -> TaskBatch:
        """Windows ``[b, 1, h, w]`` and their masks; drawn at random where ``rng`` is given."""
        found = [one for one in self.images.read([self.studies.study_ids[row] for row in rows]) if one is not None]
        return windows([(image, mask) for image, mask in found if mask is not None], rng)

    def predict(self, network: nn.Module, initialization: Initialization, rows: Int[np.ndarray, " n"]) -> pl.DataFrame:
        """study_id, patient_id, dice and score (the same), empty, and pixels counted, on middle windows."""
        settings, found = self.config.segmentation, []
        with evaluating(network):
            for some in in_batches(rows, self.config.fit.batch):
                batch = self.batch(initialization, some, None)
                logits = network(batch.to(initialization.device).inputs, len(some))
                predicted = (torch.sigmoid(logits) >= settings.threshold)[:, 0].cpu().numpy()
                found.append(compare_masks(predicted, batch.targets[:, 0].numpy() > 0))
        dice, counts = np.concatenate([one.dice for one in found]), np.concatenate([one.counts for one in found])
        names, patients = ([of[row] for row in rows] for of in (self.studies.study_ids, self.studies.patients))
        columns = {"study_id": names, "patient_id": patients, "dice": dice, "score": dice}
        empty = np.concatenate([one.empty for one in found])
        return pl.DataFrame({**columns, "empty": empty, **dict(zip(_COUNTS, counts.T, strict=True))})

    def measure(self, objective: TaskObjective, initialization: Initialization) -> dict[str, float]:
        """The Dice that is compared, on the validation split."""
        rows = self.studies.of(VAL)
        table, alone = self.predict(objective.network, initialization, rows), np.ones((1, 1))
        return {f"val_{self.score}": float(self._dice(table, np.zeros(len(rows), np.int64), alone)[self.score][0])}

    def draws(self, run: FinishedRun, patients: BootstrapPatients) -> Float[np.ndarray, " draws"]:
        """The Dice that is compared, in each draw of the patients."""
        return self._dice(run.table("scores"), patients.numbers, patients.weights)[self.score]

    def _dice(
        self, table: pl.DataFrame, numbers: Int[np.ndarray, " n"], weights: Float[np.ndarray, "draws patients"]
    ) -> dict[str, Float[np.ndarray, " draws"]]:
        """Each kind of Dice in each draw."""
        dice, empty = table["dice"].to_numpy(), table["empty"].to_numpy()
        counts = np.zeros((weights.shape[1], len(_COUNTS)))
        np.add.at(counts, numbers, table.select(_COUNTS).to_numpy())
        return {
            "dice_all": weighted_mean(dice, numbers, weights),
            "dice_pos": weighted_mean(dice[~empty], numbers[~empty], weights),
            "mdice": pooled_dice(weights @ counts),
        }

    def _other_dice(self, seeds: Sequence[FinishedRun], patients: BootstrapPatients) -> dict[str, Interval | float]:
        """The kinds of Dice that are not compared: the mean over seeds, with its interval where it has one."""
        tables = [run.table("scores") for run in seeds]
        each = [self._dice(table, patients.numbers, patients.weights) for table in tables]
        found: dict[str, Interval | float] = {
            name: interval_of(np.mean([one[name] for one in each], axis=0)) for name in each[0] if name != self.score
        }
        return found | {"dice_batches": float(np.mean([_batch_mean(t, self.config.fit.batch) for t in tables]))}

    def results(self, runs: Sequence[FinishedRun]) -> TaskResults:
        """Dice with intervals over patients, and paired differences."""
        patients = BootstrapPatients.of(self.studies, self.config.evaluate)
        empty = runs[0].table("scores")["empty"].to_numpy()
        settings, size = self.config.segmentation, self.size
        compared = compare_runs(
            runs,
            lambda run: self.draws(run, patients),
            f"val_{self.score}",
            lambda seeds: self._other_dice(seeds, patients),
        )
        about = (
            f"Dice of {settings.target} by the head {settings.head}, on windows of {size} x {size} pixels; "
            f"{int(empty.sum())} of {len(empty)} test radiographs do not show it."
        )
        return TaskResults(
            task="segmentation",
            metric=self.score,
            studies=len(empty),
            patients=patients.weights.shape[1],
            problems=self.studies.problems,
            notes=(about,),
            **compared,
        )

    def tuned(self, initialization: Initialization, network: nn.Module) -> Release:
        """With the encoder as it is now."""
        assert isinstance(network, SegmentationNetwork)
        return release_with_encoder(initialization, network.encoder, network.frozen)

    def head_settings(self) -> SegmentationTaskSettings:
        """The target and the head."""
        return self.config.segmentation


def _batch_mean(table: pl.DataFrame, size: int) -> float:
    """The mean over batches of their means: the last one, which may be smaller, counts as much."""
    dice = table["dice"].to_numpy()
    return float(np.mean([dice[start : start + size].mean() for start in range(0, len(dice), size)]))


def _window(release: Release) -> CxrInputSettings:
    """How a model reads radiographs in fine-tuning."""
    reader = reader_of(release, features_only=True)
    if not isinstance(reader, RadiographOrganReader):
        raise ModelError(
            f"Radiographs are segmented, and this model was trained on {reader.modality.images}.", code="other_modality"
        )
    return reader.settings


def windows(
    radiographs: Sequence[tuple[CxrInput, Bool[np.ndarray, "e e"]]], rng: np.random.Generator | None
) -> TaskBatch:
    """Windows ``[b, 1, h, w]`` of radiographs and of their masks: the middle ones, or drawn where ``rng`` is given."""
    images, targets = [], []
    for radiograph, mask in radiographs:
        size, room = radiograph.settings.size, len(mask) - radiograph.settings.size
        # a box of no size in the last corner that a window can have moves as the window is drawn
        image, corner = cxr_window(radiograph.pixels, np.full((1, 4), room, np.float64), radiograph.settings, rng)
        top, left = room - int(corner[0, 0]), room - int(corner[0, 2])
        images.append(image)
        targets.append(mask[top : top + size, left : left + size])
    inputs = {"images": torch.from_numpy(np.stack(images))}
    return TaskBatch(inputs, torch.from_numpy(np.stack(targets)[:, None].astype(np.float32)))


class OrganSegmenter:
    """A tuned model that segments its organ on radiographs of a store.

    Args:
        folder: what ``finetune`` with ``task: segmentation`` wrote.

    Raises:
        ModelError: it is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "head" / "segmentation.json").is_file():
            raise ModelError(f"{folder} holds no head/segmentation.json.", fix="Name a folder of a segmentation.")
        about: dict[str, Any] = read_json(folder / "head" / "segmentation.json")
        about.pop("frozen", None)  # written by earlier versions, as is ``organ``
        about = {"target" if name == "organ" else name: value for name, value in about.items()}
        self.settings = SegmentationTaskSettings.model_validate(about)
        self.release = load_release(folder)
        self.network = SegmentationNetwork(self.release.model.encoder, self.settings, frozen=True).eval()
        self.network.head.load_state_dict(load_file(folder / "head" / "segmentation.safetensors"))

    def draw(self, store: Store, study_id: str) -> Bool[np.ndarray, "rows columns"]:
        """The organ on one radiograph, in its own pixels; nothing outside of the model's window."""
        check_recipe(store, self.release)
        image = cxr_input(store.study(study_id).image(), _window(self.release))
        mask, size = np.zeros(image.pixels.shape, np.float32), image.settings.size
        batch = windows([(image, mask > 0)], None)
        with torch.no_grad():
            inside = torch.sigmoid(self.network(batch.inputs, 1))[0, 0].numpy() >= self.settings.threshold
        mask[image.start : image.start + size, image.start : image.start + size] = inside
        return resized(mask, image.shape) >= 0.5
