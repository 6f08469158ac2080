"""Segmentation: an organ is drawn on radiographs by a head on a radiograph model's encoder; its truth is the store's
masks. The metric is Dice."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Int
from safetensors.torch import load_file
from torch import Tensor, nn

from ctglip.cxr.standardize import resized
from ctglip.data.cache import MAX_FAILED_SHARE, check_damage
from ctglip.data.cxr import CxrInputSettings, shrunk, stored_edge
from ctglip.data.cxr_window import cxr_window
from ctglip.errors import CohortError, ConfigError, CTGLIPError, ModelError
from ctglip.evaluation.bootstrap import interval_of, weighted_mean
from ctglip.files import read_json
from ctglip.inference.feature_cache import check_recipe
from ctglip.models.dual_encoder import DualEncoder
from ctglip.models.release import Release, load_release
from ctglip.store.tables import Store
from ctglip.tasks.base import (
    Initialization,
    Task,
    TaskBatch,
    evaluating,
    in_batches,
    save_head,
    save_tuned_release,
)  # fmt: skip
from ctglip.tasks.inputs import tuning_radiographs
from ctglip.tasks.results import BootstrapPatients, FinishedRun, TaskResults, compare_runs
from ctglip.tasks.segmentation_heads import MaskAgreement, SegmentationNetwork, compare_masks, mask_loss
from ctglip.tasks.settings import FinetuneConfig, SegmentationTaskSettings
from ctglip.tasks.studies import TEST, TRAIN, VAL, Studies
from ctglip.tasks.targets import UnusedInput
from ctglip.training.callbacks import Callbacks
from ctglip.types import Failure, Interval
from ctglip.vocabulary.organs import load_organs

_COUNTS = ("tp", "fp", "fn", "tn")


class Segmentation(Task):
    """One organ on radiographs.

    Args:
        config: of the fine-tuning.
        studies: radiographs that have masks.
        radiographs: uint16 ``[s, edge, edge]``, larger than the model's window.
        masks: of the organ, ``[s, edge, edge]``.
        window: how the model reads radiographs.
    """

    score = "dice_all"
    head_file = "segmentation"

    def __init__(
        self,
        config: FinetuneConfig,
        studies: Studies,
        radiographs: np.ndarray,
        masks: Bool[np.ndarray, "s e e"],
        window: CxrInputSettings,
    ) -> None:
        super().__init__(config, studies)
        self.radiographs, self.masks, self.window = radiographs, masks, window

    @classmethod
    def open(
        cls,
        store: Store,
        initializations: Sequence[Initialization],
        config: FinetuneConfig,
        labels: Path | None,  # noqa: ARG003
        callbacks: Callbacks,
    ) -> Segmentation:
        """Read radiographs and masks."""
        if config.mode not in ("probe", "full"):
            raise ConfigError(f"mode: {config.mode} is not for segmentation.", fix="Set mode to probe or full.")
        for one in initializations:
            if one.release.cxr is None:
                raise ModelError(f"{one.name} was trained on CT scans, and radiographs are segmented.",
                                 code="other_modality")  # fmt: skip
            check_recipe(store, one.release)
        release = initializations[0].release
        studies, masks = _masked_studies(store, release, config.segmentation.organ)
        window = tuning_radiographs(release)
        edge, failures = stored_edge(window), []
        radiographs = np.zeros((len(masks), edge, edge), np.uint16)
        small = np.zeros(radiographs.shape, bool)
        for row, name in enumerate(studies.study_ids):
            try:
                radiographs[row] = shrunk(store.study(name).image(), edge)
                small[row] = resized(masks[row].astype(np.float32), (edge, edge)) >= 0.5
            except (CTGLIPError, OSError, ValueError) as error:
                failures.append(Failure(name, "radiographs", getattr(error, "code", "unreadable"), str(error)))
            callbacks.prepare("Reading radiographs", row + 1, len(masks))
        check_damage(failures, len(masks), MAX_FAILED_SHARE)
        studies = studies.with_problems(tuple(UnusedInput("unreadable", f.study_id, f.message) for f in failures))
        return cls(config, studies, radiographs, small, window)

    def network(self, initialization: Initialization, rows: Int[np.ndarray, " n"]) -> SegmentationNetwork:  # noqa: ARG002
        """The model's encoder, left as it is by ``mode: probe``, and a head."""
        release = initialization.release
        encoder = copy.deepcopy(release.model.encoder)
        if initialization.random:
            encoder = DualEncoder(release.model.settings, release.model.inputs).encoder
            encoder.load_pretrained()
        return SegmentationNetwork(encoder, self.config.segmentation, initialization.mode == "probe")

    def loss(self, rows: Int[np.ndarray, " n"]) -> partial[Tensor]:  # noqa: ARG002
        """Focal loss and Dice."""
        settings = self.config.segmentation
        return partial(mask_loss, focal=settings.focal, gamma=settings.gamma)

    def batch(
        self,
        initialization: Initialization,  # noqa: ARG002
        rows: Int[np.ndarray, " n"],
        rng: np.random.Generator | None,
    ) -> TaskBatch:
        """Windows ``[b, 1, h, w]`` and their masks; drawn at random where ``rng`` is given."""
        return windows(self.radiographs[rows], self.masks[rows], self.window, rng)

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

    def results(self, runs: Sequence[FinishedRun]) -> TaskResults:
        """Dice with intervals over patients, and paired differences."""
        patients = BootstrapPatients.of(self.studies, self.config.evaluate)
        empty = runs[0].table("scores")["empty"].to_numpy()

        def more(seeds: Sequence[FinishedRun]) -> dict[str, Interval | float]:
            tables = [run.table("scores") for run in seeds]
            dice = np.mean([table["dice"].to_numpy() for table in tables], axis=0)
            positive = weighted_mean(dice[~empty], patients.numbers[~empty], patients.weights)
            counts = [table.select(_COUNTS).to_numpy() for table in tables]
            mdice = float(np.mean([MaskAgreement(dice, empty, each).mdice for each in counts]))
            return {"dice_pos": interval_of(positive), "mdice": mdice}

        settings = self.config.segmentation
        compared = compare_runs(runs, lambda run: self.draws(run, patients), f"val_{self.score}", more)
        about = (
            f"Dice of {settings.organ} by the head {settings.head}, on windows of {self.window.size} x "
            f"{self.window.size} pixels; {int(empty.sum())} of {len(empty)} test radiographs do not show it."
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

    def save(
        self,
        out: Path,
        initialization: Initialization,
        network: nn.Module,
        results: TaskResults,
        run: FinishedRun,  # noqa: ARG002
    ) -> TaskResults:
        """``out/model`` with the encoder as it is now, ``out/head``."""
        assert isinstance(network, SegmentationNetwork)
        release = copy.copy(initialization.release)
        model = copy.deepcopy(release.model)
        model.encoder.load_state_dict(network.encoder.state_dict())
        release.model = model.cpu().eval()
        if not network.frozen:
            release.calibration = {}
        save_tuned_release(out / "model", release, initialization.mode, results)
        save_head(out / "head", self.head_file, network.head, self.config.segmentation.model_dump(mode="json"))
        return results


def windows(
    radiographs: np.ndarray, masks: np.ndarray, settings: CxrInputSettings, rng: np.random.Generator | None
) -> TaskBatch:
    """Windows ``[b, 1, h, w]`` of radiographs and of their masks: the middle ones, or drawn where ``rng`` is given."""
    size, room = settings.size, radiographs.shape[1] - settings.size
    images, targets = [], []
    for radiograph, mask in zip(radiographs, masks, strict=True):
        # a box of no size in the last corner that a window can have moves as the window is drawn
        image, corner = cxr_window(radiograph, np.full((1, 4), room, np.float64), settings, rng)
        top, left = room - int(corner[0, 0]), room - int(corner[0, 2])
        images.append(image)
        targets.append(mask[top : top + size, left : left + size])
    inputs = {"images": torch.from_numpy(np.stack(images))}
    return TaskBatch(inputs, torch.from_numpy(np.stack(targets)[:, None].astype(np.float32)))


def _masked_studies(store: Store, release: Release, organ: str) -> tuple[Studies, list[np.ndarray]]:
    """The radiographs of a store that have masks, and where the organ is on each."""
    labels = sorted(load_organs(release.organ_dictionary / "organs.yaml").labels_of(organ))
    patients = dict(store.table("studies").select("study_id", "patient_id").iter_rows())
    splits = dict(store.table("splits").select("study_id", "split").iter_rows())
    masks: dict[str, np.ndarray] = {}
    problems = []
    for name in sorted(patients):
        organs = store.study(name).organs()
        if organs is None:
            problems.append(UnusedInput("no_mask", name, "It has no masks."))
        elif name not in splits:
            problems.append(UnusedInput("no_split", name, "It has masks, but is in no split."))
        else:
            masks[name] = np.isin(organs, labels)
    unlabelled = np.zeros((len(masks), 0), np.float32)
    of = tuple(patients[name] for name in masks), tuple(splits[name] for name in masks)
    studies = Studies((), tuple(masks), unlabelled, *of, tuple(problems))
    listed = list(masks.values())
    for split in (TRAIN, VAL, TEST):
        if not any(listed[row].any() for row in studies.of(split)):
            raise CohortError(
                f"No radiograph of the split {split!r} has a mask of {organ} ({len(problems)} radiographs could not "
                f"be used).",
                code="empty_split",
                fix="Give the cohort masks before preprocessing, or name another organ (segmentation.organ).",
            )
    return studies, listed


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
        about.pop("frozen", None)  # written by earlier versions
        self.settings = SegmentationTaskSettings.model_validate(about)
        self.release = load_release(folder)
        self.network = SegmentationNetwork(self.release.model.encoder, self.settings, frozen=True).eval()
        self.network.head.load_state_dict(load_file(folder / "head" / "segmentation.safetensors"))

    def draw(self, store: Store, study_id: str) -> Bool[np.ndarray, "rows columns"]:
        """The organ on one radiograph, in its own pixels; nothing outside of the model's window."""
        check_recipe(store, self.release)
        image, settings = store.study(study_id).image(), tuning_radiographs(self.release)
        edge, size = stored_edge(settings), settings.size
        radiograph = shrunk(image, edge)[None]
        batch = windows(radiograph, np.zeros(radiograph.shape, bool), settings, None)
        with torch.no_grad():
            inside = torch.sigmoid(self.network(batch.inputs, 1))[0, 0].numpy() >= self.settings.threshold
        mask, start = np.zeros((edge, edge), np.float32), (edge - size) // 2
        mask[start : start + size, start : start + size] = inside
        return resized(mask, (image.shape[0], image.shape[1])) >= 0.5
