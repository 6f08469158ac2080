"""Organ pairs a second of pretraining on a CPU, by where the crops come from; and memory by batch, with GradCache.

    python benchmarks/training.py [--quick] [--json FILE] [--threads 2] [--folder KEEP]

The same encoder, objective and optimiser learn from simulated patients in every row of a table: the demo's small
encoder, for which data come hardest, and that of the recipe for one GPU. "Pre-cropped tensors in memory" are batches
made beforehand, over and over: all that happens is learning, for which the step draws channels out of the crops'
numbers. "Stall" is how much slower a row is than that; "of channels", than batches whose channels were drawn beforehand
too. Rows take turns, step by step where all happens in this process, and medians over steps count; rows with worker
processes take some steps at a time. The peers' loop does what their public code does for each step: decode whole
``.nii.gz`` files (image and masks), resample them whole, cut organs out of them; all organs of a volume are used at
once, so that it decodes as few volumes as it can. Memory is that of child processes (``training_memory.py``).
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from training_memory import memories  # beside this file

from ctglip.config import find_config, load_settings
from ctglip.data.loading import Batches, prefetched
from ctglip.data.rendering import RenderedCrops
from ctglip.objectives.base import StepContext
from ctglip.training.allocator import keep_freed_memory
from ctglip.training.assembly import Assembly, assemble
from ctglip.training.checkpoint import TrainingState
from ctglip.training.distributed import DistributedContext
from ctglip.training.optim import build_optimizer
from ctglip.training.pretrain_config import PretrainConfig
from ctglip.training.step import Stepper

TENSORS = "pre-cropped tensors in memory"
CHANNELS = "channels in memory"
PEERS = "peers: whole .nii.gz, resampled"
LARGE = "pretrain/ctglip_cnn"
MARGIN = 3
"""Voxels around an organ's box in the peers' crops (10 mm at 3 mm)."""


@dataclass(frozen=True)
class Plan:
    """How much is measured: ``quick`` takes under three minutes.

    ``large`` is for the recipe of one GPU: crops in a batch, rounds, steps.
    """

    studies: int
    scan_mm: float
    rounds: int
    steps: int
    large: tuple[int, int, int]
    batches: tuple[int, ...]


QUICK = Plan(studies=12, scan_mm=3.0, rounds=3, steps=5, large=(4, 1, 2), batches=(16, 64))
FULL = Plan(studies=24, scan_mm=2.0, rounds=16, steps=8, large=(16, 4, 3), batches=(16, 32, 64, 128))


# ---- patients


def make_store(folder: Path, plan: Plan) -> Path:
    """Simulated patients as files, and the store made of them; all are in the split ``train``."""
    from ctglip_preprocessing.driver import preprocess_cohort
    from ctglip_preprocessing.settings import PreprocessConfig

    from ctglip.cohort import read_cohort
    from ctglip.simulation.cohort import SimulationSettings, simulate_cohort

    workers = min(os.cpu_count() or 1, 8)
    settings = SimulationSettings(spacing_mm=plan.scan_mm, prevalence=0.4)
    table = simulate_cohort(folder / "cohort", plan.studies, 5, settings, workers=workers)
    config = load_settings(PreprocessConfig, "preprocess/demo_3mm", ["splits.fractions=[1.0, 0.0, 0.0]"])
    preprocess_cohort(read_cohort(table), folder / "store", config)
    return folder / "store"


def config_of(folder: Path, keep: str, recipe: str = "small/ctglip_cnn") -> PretrainConfig:
    """A recipe as it is, with crops kept in one way or another."""
    base = load_settings(PretrainConfig, find_config(recipe))
    cache = base.data.cache.model_copy(update={"keep": keep, "folder": str(folder / "crops")})
    return base.model_copy(update={"data": base.data.model_copy(update={"cache": cache})})


# ---- what is compared


@dataclass(frozen=True)
class Row:
    """One way of making batches."""

    name: str
    batches: Batches
    workers: int = 0


def rows_of(folder: Path, store_path: Path) -> tuple[Assembly, list[Row]]:
    """All rows; the first is the one that the others are compared with."""
    from ctglip.data.organ_crops import open_crops
    from ctglip.data.organs import OrganDataset
    from ctglip.store.tables import Store

    store, config = Store.open(store_path), config_of(folder, "memory")
    parts = {"memory": assemble(store, folder / "run", config, "cpu")}
    source = parts["memory"].sources["organ_text"]
    assert isinstance(source, OrganDataset)
    for keep in ("disk", "none"):  # the same in all but where crops are
        data, cache = copy.copy(source), config_of(folder, keep).data.cache
        organs = parts["memory"].dictionaries.organs
        data.reader = open_crops(store, source.instances, config.data.crops, organs, cache)
        parts[keep] = replace(parts["memory"], sources={"organ_text": data})
    ready = [parts["memory"].batch(step) for step in range(4)]
    drawn = [batch.to("cpu") for batch in ready]
    warm = parts["disk"].sources["organ_text"]
    assert isinstance(warm, OrganDataset)
    warm.reader.read(warm.instances)  # as from the second epoch on
    rows = [
        Row(TENSORS, lambda step: ready[step % len(ready)]),
        Row(CHANNELS, lambda step: drawn[step % len(drawn)]),
        Row("crops in memory", parts["memory"].batch),
        Row("crops in memory, 1 worker", parts["memory"].batch, 1),
        Row("crops on disk", parts["disk"].batch),
        Row("crops on disk, 1 worker", parts["disk"].batch, 1),
        Row("cut from the store", parts["none"].batch),
        Row("cut from the store, 2 workers", parts["none"].batch, 2),
        Row(PEERS, peers := Peers(folder / "cohort", drawn[0], float(store.info.recipe["spacing_mm"][0]))),
        Row(PEERS + ", 2 workers", peers, 2),
    ]
    return parts["memory"], rows


class Peers:
    """Batches as public training loops make them: from whole files, at each step."""

    def __init__(self, cohort: Path, like: Any, spacing_mm: float) -> None:
        from ctglip.vocabulary.organs import load_organs

        self.images = sorted((cohort / "images").glob("*.nii.gz"))
        self.like, self.spacing_mm = like, spacing_mm
        organs = load_organs()
        data = config_of(cohort, "memory").data
        self.windows_hu = data.crops.windows_hu
        self.labels = [sorted(organs.roi_labels(name)) for name in data.organs]

    def __call__(self, step: int) -> Any:
        rows, grid = len(self.like), self.like.image.shape[2:]
        crops = list(islice(self._crops(step, grid), rows))
        image, mask = (torch.stack([crop[part] for crop in crops]) for part in (0, 1))
        return replace(self.like, crops=RenderedCrops(image, mask))

    def _crops(self, step: int, grid: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        rng = np.random.default_rng([7, step])
        while True:
            image, masks = self._volume(self.images[int(rng.integers(len(self.images)))])
            for labels in self.labels:
                mask = torch.isin(masks, torch.tensor(labels))
                if bool(mask.any()):
                    yield self._crop(image, mask, grid)

    def _volume(self, path: Path) -> tuple[torch.Tensor, torch.Tensor]:
        import nibabel as nib

        loaded = nib.load(path)  # pyright: ignore[reportPrivateImportUsage]
        spacing = np.asarray(loaded.header.get_zooms()[:3])  # pyright: ignore[reportAttributeAccessIssue]
        masks = nib.load(path.parents[1] / "masks" / path.name)  # pyright: ignore[reportPrivateImportUsage]
        hu = torch.from_numpy(loaded.get_fdata(dtype=np.float32))  # pyright: ignore[reportAttributeAccessIssue]
        labels = torch.from_numpy(np.asarray(masks.dataobj).astype(np.float32))  # pyright: ignore[reportAttributeAccessIssue]
        size = [max(1, round(float(n * s / self.spacing_mm))) for n, s in zip(hu.shape, spacing, strict=True)]
        image = torch.nn.functional.interpolate(hu[None, None], size, mode="trilinear")[0, 0]
        nearest = torch.nn.functional.interpolate(labels[None, None], size, mode="nearest")[0, 0]
        return image, nearest.to(torch.int16)

    def _crop(self, image: torch.Tensor, mask: torch.Tensor, grid: Any) -> tuple[torch.Tensor, torch.Tensor]:
        instances = mask.nonzero()
        low = (instances.amin(0) - MARGIN).clamp(min=0).tolist()
        high = (instances.amax(0) + 1 + MARGIN).tolist()
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        both = torch.stack([image[box], mask[box].float()])[None]
        hu, cover = torch.nn.functional.interpolate(both, tuple(grid), mode="trilinear")[0]
        windows = [((hu - low) / (high - low) * 2 - 1).clamp(-1, 1) for low, high in self.windows_hu]
        relative = (hu / 60).clamp(
            -2, 2
        ) * cover  # in the place of details too: peers have none, the encoder wants them
        rest = self.like.image.shape[1] - len(windows) - 1
        return torch.stack([*windows, *[relative] * rest, cover]), cover[None]


# ---- speed


def measure(
    parts: Assembly, config: PretrainConfig, rows: list[Row], rounds: int, steps: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Pairs a second and stall of each row."""
    step = _step(parts, config)
    step(parts.batch(0), StepContext(), False, lambda _: ())
    times: dict[str, list[tuple[float, float]]] = {row.name: [] for row in rows}
    for number in range(rounds):
        start = 1 + number * steps
        for row in rows:
            if row.workers:
                times[row.name] += _round(step, row, start, _share(row, steps))
        for turn in range(steps):
            for row in rows:
                if not row.workers and turn < _share(row, steps):
                    times[row.name] += _round(step, row, start + turn, 1)
        say(f"round {number + 1} of {rounds}")
    pairs = len(parts.batch(0))
    seconds = {name: statistics.median(whole for whole, _ in some) for name, some in times.items()}
    return {
        name: {
            "pairs_per_s": pairs / seconds[name],
            "stall": 1 - seconds[TENSORS] / seconds[name],
            "stall_of_channels": 1 - seconds[CHANNELS] / seconds[name],
            "waited": statistics.median(waited / whole for whole, waited in some),
            "seconds": [whole for whole, _ in some],
        }
        for name, some in times.items()
    }


def _share(row: Row, steps: int) -> int:
    """The steps of a round that a row takes: peers a third, for they take long."""
    return max(2, steps // 3) if row.name.startswith(PEERS) else steps


def _round(step: Stepper, row: Row, start: int, steps: int) -> list[tuple[float, float]]:
    """Seconds of some steps, and seconds of them that were waited; with workers, a first step, in which they start,
    is left out."""
    first = bool(row.workers)
    found = []
    with closing(prefetched(row.batches, start, start + steps + first, row.workers, ahead=False)) as coming:
        clock = time.perf_counter()
        for number, (batch, waited) in enumerate(coming):
            step(batch, StepContext(step=start + number), False, lambda _: ())
            now = time.perf_counter()
            if number >= first:
                found.append((now - clock, waited))
            clock = now
    return found


# ---- the table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few small patients, few steps: under three minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--folder", type=Path, help="keep patients and store here, and take them up again")
    asked = parser.parse_args()
    plan = QUICK if asked.quick else FULL
    with tempfile.TemporaryDirectory(prefix="ctglip-training-") as scratch:
        found = compare(asked.folder or Path(scratch), plan, asked.threads)
    found |= {
        "memory": memories(plan.batches),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "plan": vars(plan),
    }
    show(found)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def compare(folder: Path, plan: Plan, threads: int) -> dict[str, Any]:
    """Speed of all rows."""

    def say(what: str) -> None:
        print(f"... {what}", file=sys.stderr, flush=True)

    torch.set_num_threads(threads)
    keep_freed_memory()  # as ``pretrain`` does on a processor
    store = folder / "store"
    if not (store / "splits.parquet").is_file():
        say(f"simulating {plan.studies} patients")
        make_store(folder, plan)
    say("cutting crops, embedding texts")
    parts, rows = rows_of(folder, store)
    speed = measure(parts, config_of(folder, "memory"), rows, plan.rounds, plan.steps, say)
    say("the recipe for one GPU")
    large, its = larger(folder, store, plan.large[0])
    its_speed = measure(large, config_of(folder, "memory", LARGE), its, *plan.large[1:], say)
    return {"speed": speed, "batch": len(parts.batch(0)), "large": its_speed, "threads": threads}


def larger(folder: Path, store_path: Path, batch: int) -> tuple[Assembly, list[Row]]:
    """The recipe for one GPU, in small batches: a processor takes seconds for a crop of it."""
    from ctglip.store.tables import Store

    config = config_of(folder, "memory", LARGE)
    sampling = config.data.sampling.model_copy(update={"batch": batch, "organs": 4})
    few = config.data.model_copy(update={"organs": ("liver", "aorta", "kidney_left", "heart"), "sampling": sampling})
    parts = assemble(Store.open(store_path), folder / "large", config.model_copy(update={"data": few}), "cpu")
    ready = [parts.batch(step) for step in range(2)]
    drawn = [batch.to("cpu") for batch in ready]
    return parts, [
        Row(TENSORS, lambda step: ready[step % 2]),
        Row(CHANNELS, lambda step: drawn[step % 2]),
        Row("crops in memory", parts.batch),
    ]


def _step(parts: Assembly, config: PretrainConfig) -> Stepper:
    training = TrainingState(parts.objective, build_optimizer(parts.objective, config.optim))
    return Stepper(training, DistributedContext(), None, config.optim)


def show(found: dict[str, Any]) -> None:
    """The tables."""
    print(f"batches of {found['batch']} organ pairs, {found['threads']} torch threads, {found['machine']}")
    titles = {
        "speed": "the demo's encoder, crops of 32",
        "large": f"{LARGE}, crops of 64, {found['plan']['large'][0]} in a batch",
    }
    for part, title in titles.items():
        print(f"{title:46s} {'pairs/s':>8s} {'stall':>7s} {'of channels':>12s} {'waited':>7s}")
        for name, row in found[part].items():
            stalls = f"{row['stall']:7.1%} {row['stall_of_channels']:12.1%}"
            print(f"  {name:44s} {row['pairs_per_s']:8.1f} {stalls} {row['waited']:7.1%}")
    sizes = list(next(iter(found["memory"].values())))
    print("\n" + f"{'MB of a step beyond model and batch of':42s}" + "".join(f"{size:>9s}" for size in sizes))
    for name, by_size in found["memory"].items():
        print(f"{name:42s}" + "".join(f"{by_size[size]['mb']:9.0f}" for size in sizes))


if __name__ == "__main__":
    main()
