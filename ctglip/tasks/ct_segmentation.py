"""Segmentation of scans: organs and drawn findings, voxel by voxel, by a decoder on the encoder of any model of scans.
The truth is the store's masks; the score is Dice, as a mean over classes of the means over the scans that show them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from ctglip.ct.resample import to_grid
from ctglip.data.reader import CachedReader
from ctglip.data.scans import ScanSettings, render_scans
from ctglip.errors import ConfigError, ModelError
from ctglip.evaluation.bootstrap import interval_of, weighted_mean
from ctglip.inference.encoding import evaluating
from ctglip.inference.feature_cache import check_recipe
from ctglip.models.dual_encoder import DualEncoder
from ctglip.models.release import Release
from ctglip.store.mask_classes import MaskClass, class_map, mask_classes
from ctglip.store.tables import Store
from ctglip.tasks.base import Initialization, Task, TaskBatch, TaskObjective, release_with_encoder
from ctglip.tasks.ct_patches import Edges, PatchVolume, patch_batch, patch_volume
from ctglip.tasks.ct_segmentation_network import CtSegmentationNetwork, segment_volume, supervised_loss
from ctglip.tasks.ct_segmentation_scores import SCORES, compare_classes
from ctglip.tasks.masked_studies import masked_studies
from ctglip.tasks.network import initial_model
from ctglip.tasks.results import BootstrapPatients, FinishedRun, TaskResults, compare_runs
from ctglip.tasks.settings import CtSegmentationConfig, CtSegmentationTaskSettings
from ctglip.tasks.studies import VAL, Studies
from ctglip.training.callbacks import Callbacks
from ctglip.types import Interval
from ctglip.vocabulary.organs import load_organs

_SCHEMA = {
    "target": pl.String,
    "present": pl.Boolean,
    **dict.fromkeys((*SCORES, "truth_ml", "predicted_ml"), pl.Float64),
}
_NAMES = {"dice": "Dice", "nsd": "NSD", "hd95_mm": "HD95 (mm)", "lesion_f1": "lesion F1"}


@dataclass(frozen=True)
class ScanView:
    """How a model's encoder sees scans.

    Attributes:
        scans: its windows.
        spacing_mm: at which it was trained on whole scans; None: that of its recipe.
        patch: voxels of its input.
    """

    scans: ScanSettings
    spacing_mm: Edges | None
    patch: tuple[int, int, int]

    @classmethod
    def of(cls, release: Release) -> ScanView:
        """The view of a model of scans.

        Raises:
            ModelError: code ``other_modality``: it reads radiographs.
        """
        if release.modality != "ct":
            raise ModelError(
                "Scans are segmented, and this model was trained on radiographs.",
                code="other_modality",
                fix="Name a model of scans, or segment radiographs (finetune/cxr_segmentation_unet).",
            )
        x, y, z = release.sides
        if release.reads_crops:
            windows = tuple((float(low), float(high)) for low, high in release.crops["windows_hu"])
            return cls(ScanSettings(windows_hu=windows), None, (x, y, z))
        scans = ScanSettings.model_validate(release.scans)
        return cls(scans, scans.spacing_mm, (x, y, z))


@dataclass(frozen=True)
class PatchGrid:
    """What networks see of scans, the same for all that are compared.

    Attributes:
        spacing_mm: of voxels; None: the store's.
        patch: voxels of a patch.
    """

    spacing_mm: Edges | None
    patch: tuple[int, int, int]

    @classmethod
    def of(cls, settings: CtSegmentationTaskSettings, releases: Sequence[Release]) -> PatchGrid:
        """As the settings say, else as the first model was trained.

        Raises:
            ConfigError: the patch does not fit an encoder.
            ModelError: code ``other_modality``: one of the models reads radiographs.
        """
        view, *_ = [ScanView.of(release) for release in releases]
        found = cls(settings.spacing_mm or view.spacing_mm, settings.patch or view.patch)
        for release in releases:
            steps = release.model.encoder.strides[-1]
            if any(side % step for side, step in zip(found.patch, steps, strict=True)):
                raise ConfigError(
                    f"segmentation.patch {list(found.patch)} is no multiple of {list(steps)}, the encoder's stride.",
                    fix="Set it to multiples of that.",
                )
        return found


class CtSegmentation(Task[CtSegmentationConfig]):
    """Organs and drawn findings on scans.

    Args:
        config: of the fine-tuning.
        studies: scans whose classes are known.
        store: that they lie in.
        volumes: each scan on the voxels that networks see.
        classes: what is segmented.
        grid: what networks see.
    """

    score = "dice"
    head_file = "ct_segmentation"

    def __init__(
        self,
        config: CtSegmentationConfig,
        studies: Studies,
        store: Store,
        volumes: CachedReader[str, PatchVolume],
        classes: tuple[MaskClass, ...],
        grid: PatchGrid,
    ) -> None:
        super().__init__(config, studies)
        self.store, self.volumes, self.classes, self.grid = store, volumes, classes, grid

    @classmethod
    def open(
        cls,
        store: Store,
        initializations: Sequence[Initialization],
        config: CtSegmentationConfig,
        labels: Path | None,  # noqa: ARG003
        callbacks: Callbacks,
    ) -> CtSegmentation:
        """Read scans and masks."""
        releases, settings = [one.release for one in initializations], config.segmentation
        grid = PatchGrid.of(settings, releases)
        for release in releases:
            check_recipe(store, release)
        classes = mask_classes(settings.targets, store, load_organs(releases[0].organ_dictionary / "organs.yaml"))

        def load(name: str, _: Sequence[str]) -> list[PatchVolume]:
            study = store.study(name)
            known = class_map(study, classes, settings.undrawn)
            return [patch_volume(study.image(), known, study.affine, grid.spacing_mm)]

        capacity = int(config.fit.keep_gb * 1e9 / (3 * _most_voxels(store, grid.spacing_mm)))
        volumes = CachedReader(load, sorted(store.study_ids), str, capacity, config.fit.threads)
        progress = partial(callbacks.prepare, "Reading scans")
        found = {
            name: None if volume.classes is None else frozenset(volume.anchors)
            for name, volume in volumes.readable(progress=progress)
        }
        studies = masked_studies(store, found, volumes.failures, settings.targets, "scan")
        return cls(config, studies, store, volumes, classes, grid)

    def network(self, initialization: Initialization, rows: Int[np.ndarray, " n"]) -> CtSegmentationNetwork:  # noqa: ARG002
        """The model's encoder, left as it is by ``mode: probe``, and a decoder."""
        model, frozen = initial_model(initialization), initialization.mode == "probe"
        return decoder_on(initialization.release, model, len(self.classes), self.config.segmentation, frozen)

    def loss(self, rows: Int[np.ndarray, " n"]) -> Callable[[Tensor, Tensor], Tensor]:  # noqa: ARG002
        """Dice and cross entropy at several scales."""
        return supervised_loss(self.config.segmentation)

    def batch(
        self, initialization: Initialization, rows: Int[np.ndarray, " n"], rng: np.random.Generator | None
    ) -> TaskBatch:
        """Patches ``[n, c, x, y, z]`` of some scans and the class of each voxel; whole scans are segmented without."""
        assert rng is not None
        names = [self.studies.study_ids[row] for row in rows]
        volumes = [one for one in self.volumes.read(names) if one is not None]
        view = ScanView.of(initialization.release).scans
        images, targets = patch_batch(volumes, self.grid.patch, view, self.config.segmentation, rng)
        return TaskBatch({"images": images}, targets)

    def predict(self, network: nn.Module, initialization: Initialization, rows: Int[np.ndarray, " n"]) -> pl.DataFrame:
        """``study_id``, ``patient_id`` and the row of each class, see ``compare_classes``; on the store's voxels."""
        return self._scored(network, initialization, rows, overlap_only=False)

    def _scored(
        self, network: nn.Module, initialization: Initialization, rows: Int[np.ndarray, " n"], overlap_only: bool
    ) -> pl.DataFrame:
        settings, view, found = self.config.segmentation, ScanView.of(initialization.release).scans, []
        for row in rows:
            name, patient = self.studies.study_ids[row], self.studies.patients[row]
            (volume,) = self.volumes.read([name])
            study = self.store.study(name)
            truth = class_map(study, self.classes, settings.undrawn)
            if volume is None or truth is None:
                continue
            with evaluating(network):
                probabilities = class_probabilities(network, volume, view, self.grid.patch, settings)
            x, y, z = truth.shape
            predicted = classes_on(probabilities, volume.affine, (x, y, z), study.affine)
            rows_of = compare_classes(predicted, truth, study.spacing_mm, self.classes, settings, overlap_only)
            found += [{"study_id": name, "patient_id": patient, **one} for one in rows_of]
        return pl.DataFrame(found, schema={"study_id": pl.String, "patient_id": pl.String, **_SCHEMA})

    def measure(self, objective: TaskObjective, initialization: Initialization) -> dict[str, float]:
        """Dice on some scans of the validation split."""
        rows, most = self.studies.of(VAL), self.config.segmentation.val_scans
        if len(rows) > most:
            rows = rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]
        table = self._scored(objective.network, initialization, rows, overlap_only=True)
        means = table.filter("present").group_by("target").agg(pl.col("dice").mean())["dice"]
        return {f"val_{self.score}": float(means.mean() or 0.0)} if len(means) else {}  # pyright: ignore[reportArgumentType]

    def draws(self, run: FinishedRun, patients: BootstrapPatients) -> Float[np.ndarray, " draws"]:
        """Dice: the mean over classes of the means over scans that show them; a draw without a class leaves it out."""
        each = [self._draws_of(run.table("scores"), one.name, "dice", patients) for one in self.classes]
        known = np.stack([one for one in each if one is not None])
        counted = np.isfinite(known)
        sums = np.where(counted, known, 0.0).sum(0)
        return np.divide(sums, counted.sum(0), out=np.full(len(sums), np.nan), where=counted.any(0))

    def _draws_of(
        self, table: pl.DataFrame, target: str, column: str, patients: BootstrapPatients
    ) -> Float[np.ndarray, " draws"] | None:
        """A score of a class in each draw of the patients; None where no test scan shows it or nobody measured it."""
        rows = table.filter((pl.col("target") == target) & pl.col("present") & pl.col(column).is_not_null())
        if not len(rows):
            return None
        number = dict(zip(patients.study_ids, patients.numbers.tolist(), strict=True))
        numbers = np.array([number[name] for name in rows["study_id"]])
        return weighted_mean(rows[column].to_numpy(), numbers, patients.weights)

    def _class_scores(self, seeds: Sequence[FinishedRun], patients: BootstrapPatients) -> dict[str, Interval | float]:
        """Every score of every class that a test scan shows: the mean over seeds, with its interval."""
        tables, found = [run.table("scores") for run in seeds], {}
        for one in self.classes:
            for column in SCORES:
                draws = [self._draws_of(table, one.name, column, patients) for table in tables]
                known = [each for each in draws if each is not None]
                if known:
                    found[f"{one.name} {_NAMES[column]}"] = interval_of(np.mean(known, axis=0))
        return found

    def results(self, runs: Sequence[FinishedRun]) -> TaskResults:
        """All scores of each class with intervals over patients, and paired differences of Dice."""
        patients = BootstrapPatients.of(self.studies, self.config.evaluate)
        compared = compare_runs(
            runs,
            lambda run: self.draws(run, patients),
            f"val_{self.score}",
            lambda seeds: self._class_scores(seeds, patients),
        )
        table = runs[0].table("scores")
        counts = table.group_by("target").agg(pl.col("present").sum())
        shown = ", ".join(f"{target} on {present}" for target, present in sorted(counts.iter_rows()))
        spacing = (
            "the store's voxels" if self.grid.spacing_mm is None else f"voxels of {_sides(self.grid.spacing_mm)} mm"
        )
        return TaskResults(
            task=self.config.task,
            metric=self.score,
            studies=table["study_id"].n_unique(),
            patients=patients.weights.shape[1],
            problems=self.studies.problems,
            notes=(
                f"Patches of {_sides(self.grid.patch)} on {spacing}; judged on the store's voxels. Of "
                f"{table['study_id'].n_unique()} test scans: {shown}; the others do not show it and are not counted.",
            ),
            **compared,
        )

    def tuned(self, initialization: Initialization, network: nn.Module) -> Release:
        """With the encoder as it is now."""
        assert isinstance(network, CtSegmentationNetwork)
        return release_with_encoder(initialization, network.encoder, network.frozen)

    def head_settings(self) -> CtSegmentationTaskSettings:
        """The classes, and the grid that the networks saw."""
        return self.config.segmentation.model_copy(
            update={"spacing_mm": self.grid.spacing_mm, "patch": self.grid.patch}
        )


def decoder_on(
    release: Release, model: DualEncoder, classes: int, settings: CtSegmentationTaskSettings, frozen: bool
) -> CtSegmentationNetwork:
    """A decoder for some classes and the background on a model's encoder."""
    view = ScanView.of(release)
    return CtSegmentationNetwork(
        model.encoder, model.inputs.in_channels, view.scans.channels, classes + 1, settings, frozen
    )


def class_probabilities(
    network: nn.Module,
    volume: PatchVolume,
    view: ScanSettings,
    patch: Sequence[int],
    settings: CtSegmentationTaskSettings,
) -> Float[np.ndarray, "k x y z"]:
    """Probabilities of the classes of each voxel of a scan, the background first."""
    image = torch.from_numpy(render_scans(volume.hu, view))[None]
    return segment_volume(network, image, patch, settings).numpy()


def classes_on(
    probabilities: Float[np.ndarray, "k x y z"],
    affine: Float[np.ndarray, "4 4"],
    shape: tuple[int, int, int],
    target: Float[np.ndarray, "4 4"],
) -> UInt8[np.ndarray, "i j k"]:
    """The likeliest class of each voxel of a grid (any order and direction of axes); 0 where nothing was looked at."""
    best, found = np.full(shape, -1.0, np.float32), np.zeros(shape, np.uint8)
    for number, probability in enumerate(probabilities):
        resampled = to_grid(probability, affine, shape, target, fill=1.0 if number == 0 else 0.0, smooth=False)
        better = resampled > best
        best[better], found[better] = resampled[better], number
    return found


def _most_voxels(store: Store, spacing_mm: Edges | None) -> int:
    """Voxels of the largest scan on the grid that networks see."""
    sizes = [1]
    for shape, spacing in store.table("studies").select("shape", "spacing_mm").iter_rows():
        scale = 1.0 if spacing_mm is None else math.prod(spacing) / math.prod(spacing_mm)
        sizes.append(int(math.prod(shape) * scale))
    return max(sizes)


def _sides(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)
