"""``finetune`` with ``task: segmentation``: an organ is drawn on radiographs by a head on a radiograph model's
encoder."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ctglip.cxr.standardize import resized
from ctglip.data.cache import MAX_FAILED_SHARE, check_damage
from ctglip.data.cxr import CxrDataSettings
from ctglip.data.cxr_input import kept_edge, shrunk
from ctglip.data.cxr_window import cxr_window
from ctglip.errors import CohortError, CTGLIPError, ModelError
from ctglip.files import atomic_path, read_json, write_json
from ctglip.inference.feature_cache import check_recipe
from ctglip.models.dual_encoder import OrganTextModel
from ctglip.models.release import Release, load_release, save_release
from ctglip.store.tables import Store
from ctglip.tasks.initializations import open_records, starts_of, weights_of
from ctglip.tasks.inputs import tuning_radiographs
from ctglip.tasks.network import Start
from ctglip.tasks.runs import Cell
from ctglip.tasks.segment_results import SegmentationResults, results_of
from ctglip.tasks.segmentation import Drawn, SegmentationNetwork, agreement, mask_loss
from ctglip.tasks.settings import FinetuneConfig, SegmentationSettings
from ctglip.tasks.studies import TEST, TRAIN, VAL, Studies
from ctglip.tasks.targets import Problem
from ctglip.training.allocator import keep_freed_memory
from ctglip.training.launch import resolve_device
from ctglip.training.optim import build_optimizer, set_learning_rate
from ctglip.training.record import fingerprint
from ctglip.types import Failure
from ctglip.vocabulary.organs import load_organs

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class MaskedCxr:
    """Radiographs in memory with what is to be drawn.

    Attributes:
        radiographs: uint16 ``[s, edge, edge]``.
        masks: ``[s, edge, edge]``.
        settings: the model's window.
    """

    radiographs: np.ndarray
    masks: Bool[np.ndarray, "s e e"]
    settings: CxrDataSettings

    def batch(self, rows: Int[np.ndarray, " b"], rng: np.random.Generator | None) -> tuple[Tensor, Tensor]:
        """Windows ``[b, 1, h, w]`` and their masks; drawn at random where ``rng`` is given."""
        size, room = self.settings.size, self.radiographs.shape[1] - self.settings.size
        images, masks = [], []
        for row in rows:
            # a box of no size in the last corner that a window can have moves as the window is drawn
            image, corner = cxr_window(self.radiographs[row], np.full((1, 4), room, np.float64), self.settings, rng)
            top, left = room - int(corner[0, 0]), room - int(corner[0, 2])
            images.append(image)
            masks.append(self.masks[row, top : top + size, left : left + size])
        return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(masks)[:, None].astype(np.float32))


def segment(
    run: Path,
    store: Path,
    out: Path,
    config: FinetuneConfig,
    resume: bool = False,
    encoding: Progress | None = None,
    progress: Progress | None = None,
) -> SegmentationResults:
    """Learn to draw an organ on radiographs, beside other starts.

    Args:
        run: a run of radiographs, or its ``model/`` folder.
        store: made by the model's recipe, with masks of some radiographs.
        out: folder to write: records, cells/, model/, head/, results.json, scores.parquet, problems.csv.
        config: what to do (``task: segmentation``).
        resume: go on with the cells that are missing.
        encoding: called with (radiographs done, radiographs) while they are read.
        progress: called with (passes done, passes) of all fits.

    Raises:
        CohortError: code ``empty_split``: no radiograph of a split has masks.
        ConfigError, ModelError, StoreError: as ``run.finetune``.
    """
    opened, device = Store.open(store), resolve_device(config.fit.device)
    keep_freed_memory(device)
    starts = starts_of(run, config, "probe" if config.segmentation.frozen else "full", device)
    for start in starts:
        if start.release.cxr is None:
            raise ModelError(
                f"{start.name} was trained on CT scans; radiographs are drawn on here.", code="other_modality"
            )
        check_recipe(opened, start.release)
    studies, masks = _masked(opened, starts[0].release, config.segmentation.organ)
    open_records(out, config, device, [fingerprint(opened), *(weights_of(start) for start in starts)], resume)
    radiographs, failures = _read(opened, starts[0].release, studies, masks, encoding)
    problems = (*studies.problems, *(Problem("unreadable", f.study_id, f.message) for f in failures))
    cells = [Cell(s.name, fraction, seed) for s in starts for fraction in config.fractions for seed in config.seeds]
    named = {start.name: start for start in starts}
    passes = [(config.scratch_fit if named[cell.start].random else config.fit).epochs for cell in cells]
    for number, cell in enumerate(cells):

        def report(done: int, before: int = sum(passes[:number])) -> None:
            if progress:
                progress(before + done, sum(passes))

        _run_cell(cell, named[cell.start], radiographs, studies, config, out / "cells", report)
        report(passes[number])
    results = results_of(cells, studies, config, radiographs.settings.size, out, problems)
    _keep(out, starts[0], results, config)
    return results


def _masked(store: Store, release: Release, organ: str) -> tuple[Studies, list[np.ndarray]]:
    """The radiographs of a store that have masks, and where the organ is on each."""
    labels = sorted(load_organs(release.organ_dictionary / "organs.yaml").labels_of(organ))
    patients = dict(store.table("studies").select("study_id", "patient_id").iter_rows())
    splits = dict(store.table("splits").select("study_id", "split").iter_rows())
    names, masks, problems = [], [], []
    for name in sorted(patients):
        drawn = store.study(name).organs()
        if drawn is None:
            problems.append(Problem("no_mask", name, "It has no masks."))
        elif name not in splits:
            problems.append(Problem("no_split", name, "It has masks, but is in no split."))
        else:
            names.append(name)
            masks.append(np.isin(drawn, labels))
    none = np.zeros((len(names), 0), np.float32)
    of = tuple(patients[name] for name in names), tuple(splits[name] for name in names)
    studies = Studies((), tuple(names), none, *of, tuple(problems))
    for split in (TRAIN, VAL, TEST):
        shown_there = [masks[row].any() for row in studies.of(split)]
        if not any(shown_there):
            raise CohortError(
                f"No radiograph of the split {split!r} has a mask of {organ} ({len(problems)} radiographs could not "
                f"be used).",
                code="empty_split",
                fix="Give the cohort masks before preprocessing, or name another organ (segmentation.organ).",
            )
    return studies, masks


def _read(
    store: Store, release: Release, studies: Studies, masks: Sequence[np.ndarray], progress: Progress | None
) -> tuple[MaskedCxr, list[Failure]]:
    settings = tuning_radiographs(release)
    edge = kept_edge(settings)
    radiographs = np.zeros((len(masks), edge, edge), np.uint16)
    small = np.zeros(radiographs.shape, bool)
    failures: list[Failure] = []
    for row, name in enumerate(studies.study_ids):
        try:
            radiographs[row] = shrunk(store.study(name).image(), edge)
            small[row] = resized(masks[row].astype(np.float32), (edge, edge)) >= 0.5
        except (CTGLIPError, OSError, ValueError) as error:
            failures.append(Failure(name, "radiographs", getattr(error, "code", "unreadable"), str(error)))
        if progress:
            progress(row + 1, len(masks))
    check_damage(failures, len(masks), MAX_FAILED_SHARE)
    return MaskedCxr(radiographs, small, settings), failures


def _network(start: Start, config: FinetuneConfig, seed: int) -> SegmentationNetwork:
    torch.manual_seed(seed)
    release = start.release
    encoder = copy.deepcopy(release.model.encoder)
    if start.random:
        encoder = OrganTextModel(release.model.settings).encoder
        encoder.load_pretrained()
    frozen = config.segmentation.frozen and not start.random
    return SegmentationNetwork(encoder, config.segmentation, frozen).to(next(release.model.parameters()).device)


def _batches(rows: Int[np.ndarray, " n"], size: int) -> Iterator[Int[np.ndarray, " b"]]:
    yield from (rows[start : start + size] for start in range(0, len(rows), size))


@torch.no_grad()
def draw(
    network: SegmentationNetwork, radiographs: MaskedCxr, rows: Int[np.ndarray, " n"], threshold: float, batch: int
) -> tuple[Bool[np.ndarray, "n h w"], Bool[np.ndarray, "n h w"]]:
    """What a network draws on the middle windows of some radiographs, and the truth."""
    network.eval()
    device = next(network.parameters()).device
    said, truth = [], []
    for some in _batches(rows, batch):
        images, masks = radiographs.batch(some, None)
        said.append((torch.sigmoid(network(images.to(device))) >= threshold)[:, 0].cpu().numpy())
        truth.append(masks[:, 0].numpy() > 0)
    return np.concatenate(said), np.concatenate(truth)


def _run_cell(
    cell: Cell,
    start: Start,
    radiographs: MaskedCxr,
    studies: Studies,
    config: FinetuneConfig,
    folder: Path,
    progress: Callable[[int], None],
) -> None:
    """Fit one cell and judge it on the test split, unless it is there."""
    target, settings = folder / cell.key, config.segmentation
    if (target / "cell.json").is_file():
        return
    fit, optim = (config.scratch_fit, config.scratch_optim) if start.random else (config.fit, config.optim)
    network = _network(start, config, cell.seed)
    optimizer = build_optimizer(network, optim)
    train, val, test = studies.subset(cell.fraction, cell.seed), studies.of(VAL), studies.of(TEST)
    best, kept, history = 0, _state(network), [_judged(network, radiographs, val, settings, fit.batch)]
    steps = max(round(len(train) / fit.batch), 1)
    device = next(network.parameters()).device
    for number in range(fit.epochs):
        if fit.patience and number - best >= fit.patience:
            break
        rng = np.random.default_rng((cell.seed, number))
        network.train()
        for step, rows in enumerate(np.array_split(rng.permutation(train), steps)):
            set_learning_rate(optimizer, number * steps + step, fit.epochs * steps, optim)
            images, masks = radiographs.batch(rows, rng)
            loss = mask_loss(network(images.to(device)), masks.to(device), settings.focal, settings.gamma)
            if not bool(torch.isfinite(loss)):
                raise ModelError("The loss is not a number.", code="not_finite", fix="Lower optim.lr.")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), optim.clip or float("inf"))
            optimizer.step()
        history.append(_judged(network, radiographs, val, settings, fit.batch))
        if history[-1] > history[best]:
            best, kept = number + 1, _state(network)
        progress(number + 1)
    network.load_state_dict(kept, strict=False)
    found = agreement(*draw(network, radiographs, test, settings.threshold, fit.batch))
    about = {**asdict(cell), "patients": len({studies.patients[row] for row in train}), "frozen": network.frozen,
             "best": best, "passes": len(history) - 1, "dice_val": history}  # fmt: skip
    with atomic_path(target) as temporary:
        temporary.mkdir()
        _scores(studies, test, found).write_parquet(temporary / "scores.parquet")
        save_file({name: value.cpu().contiguous() for name, value in kept.items()}, temporary / "weights.safetensors")
        write_json(temporary / "cell.json", about)


def _state(network: SegmentationNetwork) -> dict[str, Tensor]:
    """What learns, copied: the head, and the encoder where it is not frozen."""
    state = network.state_dict()
    return {n: value.detach().clone() for n, value in state.items() if not network.frozen or n.startswith("head.")}


def _judged(
    network: SegmentationNetwork, radiographs: MaskedCxr, rows: np.ndarray, settings: SegmentationSettings, batch: int
) -> float:
    return float(agreement(*draw(network, radiographs, rows, settings.threshold, batch)).dice.mean())


def _scores(studies: Studies, rows: np.ndarray, found: Drawn) -> pl.DataFrame:
    columns = {"study_id": [studies.study_ids[row] for row in rows], "patient_id": [studies.patients[r] for r in rows]}
    counts = {name: found.counts[:, position] for position, name in enumerate(("tp", "fp", "fn", "tn"))}
    return pl.DataFrame({**columns, "dice": found.dice, "empty": found.empty, **counts})


def _keep(out: Path, start: Start, results: SegmentationResults, config: FinetuneConfig) -> None:
    """Write the kept model and the results."""
    best = Cell(**results.released)
    network = _network(start, config, best.seed)
    network.load_state_dict(load_file(out / "cells" / best.key / "weights.safetensors"), strict=False)
    release = copy.copy(start.release)
    model = copy.deepcopy(start.release.model)
    model.encoder.load_state_dict(network.encoder.state_dict())
    release.model = model.cpu().eval()
    if not network.frozen:
        release.calibration = {}
    release.provenance = {**release.provenance, "finetuned": {"task": "segmentation", **results.released}}
    save_release(out / "model", release)
    with atomic_path(out / "head") as temporary:
        temporary.mkdir()
        state = {name: value.cpu().contiguous() for name, value in network.head.state_dict().items()}
        save_file(state, temporary / "segmentation.safetensors")
        write_json(temporary / "segmentation.json", config.segmentation.model_dump(mode="json"))
    write_json(out / "results.json", results.to_json())
    with atomic_path(out / "scores.parquet") as temporary:
        pl.read_parquet(out / "cells" / best.key / "scores.parquet").write_parquet(temporary)
    with atomic_path(out / "problems.csv") as temporary:
        schema = {"code": pl.String, "subject": pl.String, "message": pl.String}
        pl.DataFrame([asdict(problem) for problem in results.problems], schema=schema).write_csv(temporary)


class Segmenter:
    """A tuned model that draws its organ on radiographs of a store.

    Args:
        folder: what ``finetune`` with ``task: segmentation`` wrote.

    Raises:
        ModelError: it is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "head" / "segmentation.json").is_file():
            raise ModelError(f"{folder} holds no head/segmentation.json.", fix="Name a folder of a segmentation.")
        self.settings = SegmentationSettings.model_validate(read_json(folder / "head" / "segmentation.json"))
        self.release = load_release(folder)
        self.network = SegmentationNetwork(self.release.model.encoder, self.settings, frozen=True).eval()
        self.network.head.load_state_dict(load_file(folder / "head" / "segmentation.safetensors"))

    def draw(self, store: Store, study_id: str) -> Bool[np.ndarray, "rows columns"]:
        """The organ on one radiograph, in its own pixels; nothing is drawn outside of the model's window."""
        check_recipe(store, self.release)
        image, settings = store.study(study_id).image(), tuning_radiographs(self.release)
        edge, size = kept_edge(settings), settings.size
        radiograph = shrunk(image, edge)[None]
        radiographs = MaskedCxr(radiograph, np.zeros(radiograph.shape, bool), settings)
        window, _ = draw(self.network, radiographs, np.zeros(1, np.int64), self.settings.threshold, 1)
        whole, start = np.zeros((edge, edge), np.float32), (edge - size) // 2
        whole[start : start + size, start : start + size] = window[0]
        return resized(whole, (image.shape[0], image.shape[1])) >= 0.5
