"""ECAMP on simulated patients: hidden patches and sharpened windows beside interpolation, words filled in beside plain
masked words.

    python benchmarks/ecamp.py [films|words|crops] [--quick] [--json FILE] [--films STORE] [--scans STORE] [--steps N]

Films and crops of organs are of held-out patients. Pictures: PSNR over the range of grey values, of the patches that
were hidden and of the window at twice the resolution. Words: entities and the two words before each are hidden, all
else is shown; how many are said rightly with the picture, and with another patient's. "words" is the same network with
every word hidden alike and no entity sentences: plain masked words. Stores that are not named are
simulated. One seed: figures say how well the machinery learns, nothing about clinical use.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from ctglip.data.films import FilmDataset, FilmDataSettings
from ctglip.data.organs import DataSettings, OrganDataset
from ctglip.data.sampling import BalancedSampler, SamplingSettings
from ctglip.features.text_bank import TextBank
from ctglip.losses.masked import patchify, unpatchify, window_mask
from ctglip.models.encoders import ViTSettings
from ctglip.models.fusion import ReportBertSettings
from ctglip.models.masked import MaskedImageSettings, halved
from ctglip.models.towers import OrganTextModel, OrganTextModelSettings
from ctglip.objectives.base import total
from ctglip.objectives.ecamp import Ecamp, EcampOrganSettings, EcampSettings, MaskedBatch
from ctglip.store.tables import Store
from ctglip.text.entities import entity_templates
from ctglip.text.wordpiece import WordPieceSettings, learn_pieces
from ctglip.training.optim import OptimSettings, build_optimizer, set_learning_rate
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs

ORGANS = ("liver", "spleen", "kidney_left", "kidney_right", "lung_left", "lung_right", "heart", "aorta")
Figures = dict[str, float]


class NoEncoder:
    """Stands where a text bank wants an encoder: ECAMP embeds no text."""

    dim, hash, trainable = 1, "none", False

    def encode(self, texts: Sequence[str], **_: Any) -> Tensor:
        """Nothing."""
        return torch.zeros(len(texts), 1)


def command(*arguments: object) -> None:
    """One ctglip command; what it says goes to stderr."""
    done = subprocess.run([sys.executable, "-m", "ctglip", *map(str, arguments)], stdout=sys.stderr, check=False)
    if done.returncode not in (0, 1):
        sys.exit(done.returncode)


def simulated(out: Path, studies: int, films: bool) -> Path:
    """A store of simulated patients."""
    command("simulate", out / "cohort", "--studies", studies, "--seed", 11, *(["--films"] if films else []))
    config = ["preprocess/films", "--set", "films.size=160"] if films else ["preprocess/demo_3mm"]
    command("preprocess", out / "cohort" / "cohort.csv", out / "store", "--config", *config)
    return out / "store"


# --- what is trained


def objective(bank: TextBank, texts: Sequence[str], dims: int, channels: int, plain: bool, quick: bool) -> Ecamp:
    """ECAMP, or (``plain``) the same with every word hidden alike and no sentences put in."""
    torch.manual_seed(0)
    width, patch = (32 if quick else 64), 8 if dims == 2 else 4
    side = 64 if dims == 2 else 16
    encoder = ViTSettings(spatial_dims=dims, patch=patch, image_size=side, dim=width, depth=4, heads=4)  # pyright: ignore[reportArgumentType]
    model = OrganTextModel(OrganTextModelSettings(encoder=encoder, in_channels=channels, grounding="none", text_dim=1))
    kind, name = (EcampSettings, "cxr") if dims == 2 else (EcampOrganSettings, "ct")
    settings: dict[str, Any] = {
        "image": MaskedImageSettings(width=width, depth=2, heads=4),
        "bert": ReportBertSettings(width=width, layers=1, heads=4, hidden=2 * width, dropout=0),
        "entities": {"entities": name},
        "masking": {"kind": "uniform"} if plain else {},
        "context": 0.0 if plain else 0.8,
    }
    length = 96 if dims == 2 else 64
    pieces = learn_pieces([*texts, *entity_templates(name)], WordPieceSettings(vocabulary=2000, length=length))
    return Ecamp(model, bank, pieces, kind(**settings))


def train(method: Ecamp, batch: Callable[[int], Sequence[Any]], steps: int) -> float:
    """Train; returns CPU seconds."""
    optim = OptimSettings(lr=1e-3, warmup=min(50, steps // 4))
    optimizer = build_optimizer(method, optim)
    clock = time.process_time()
    for step in range(steps):
        method.chance = (0, step)
        set_learning_rate(optimizer, step, steps, optim)
        losses, report = method(method.collate(batch(step)))
        optimizer.zero_grad()
        total(losses).backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step + 1 == steps:
            told = ", ".join(f"{key} {value:.3f}" for key, value in report.items())
            print(f"  step {step + 1}: {told}", file=sys.stderr, flush=True)
    method.eval()
    return time.process_time() - clock


# --- pictures


def psnr(errors: Sequence[tuple[float, float]], grey: float) -> float:
    """Of (sum of squared errors, number of pixels) in units of ``grey`` to the range of grey values."""
    squared, pixels = (sum(column) for column in zip(*errors, strict=True))
    return -10 * math.log10(squared / pixels * grey**2)


def nearest_seen(target: Tensor, covered: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Each hidden patch filled with the mean grey of the nearest one that is seen."""
    place = torch.stack(torch.meshgrid(*map(torch.arange, grid), indexing="ij"), -1).flatten(0, -2).float()
    distance = torch.cdist(place, place)[None].expand(len(target), -1, -1)
    near = distance.masked_fill(covered[:, None].bool(), math.inf).argmin(-1)
    return target.mean(-1, keepdim=True).gather(1, near[..., None]).expand_as(target)


def cubic(picture: Tensor) -> Tensor:
    """Twice the resolution: bicubic; in 3D cubic splines."""
    if picture.dim() == 4:
        return F.interpolate(picture, scale_factor=2, mode="bicubic")
    volumes: Any = picture.flatten(0, 1).numpy()
    zoomed: list[Any] = [ndimage.zoom(one, 2, order=3, mode="nearest", grid_mode=True) for one in volumes]
    found = np.stack(zoomed)
    return torch.from_numpy(found).unflatten(0, picture.shape[:2])


@torch.no_grad()
def pictures(method: Ecamp, batches: Sequence[MaskedBatch], average: Tensor, grey: float) -> Figures:
    """PSNR of what is decoded and sharpened, beside what needs no learning.

    Args:
        average: the mean picture of the training set, at the encoder's resolution.
        grey: of one unit of the input in the range of grey values.
    """
    errors: dict[str, list[tuple[float, float]]] = {}

    def note(name: str, found: Tensor, truth: Tensor, where: Tensor) -> None:
        where = where.expand_as(truth)
        errors.setdefault(name, []).append((float(((found - truth) * where).square().sum()), float(where.sum())))

    for batch in batches:
        found = method.encode(batch)
        target, covered = found["target"], found["covered"]
        sides = tuple(batch.image.shape[2:])
        grid = tuple(side // (2 * method.patch) for side in sides)
        mean = patchify(average.expand(len(batch), *average.shape[1:]), method.patch)
        for name, guess in (
            ("decoded", found["prediction"]),
            ("mean picture", mean),
            ("nearest patch seen", nearest_seen(target, covered, grid)),
        ):
            note(f"hidden patches, {name}", guess, target, covered[..., None])
        decoded = unpatchify(found["prediction"], method.patch, grid)
        corner = found["corner"]
        window = window_mask(grid, corner, method._window(grid), 2 * method.patch)
        linear = F.interpolate(decoded, scale_factor=2, mode="trilinear" if len(grid) == 3 else "bilinear")
        assert method.sharpener is not None
        whole = halved(batch.image)
        for name, guess in (
            ("sharpened", found["sharp"]),
            ("linear", linear),
            ("cubic", cubic(decoded)),
        ):
            note(f"window from decoded patches, {name}", guess, found["fine"], window)
        for name, guess in (("sharpened", method.sharpener(whole)), ("cubic", cubic(whole))):
            note(f"window from the whole picture, {name}", guess, found["fine"], window)
    return {name: psnr(some, grey) for name, some in errors.items()}


# --- words


@torch.no_grad()
def words(method: Ecamp, batches: Sequence[MaskedBatch], swap: bool) -> Figures:
    """Share of hidden entities, and of the words before them, that are said rightly.

    Args:
        swap: every report with the picture of the next one.
    """
    assert method.bert is not None
    right: dict[str, list[float]] = {"entities": [], "descriptors": []}
    for batch in batches:
        image = batch.image.roll(1, 0) if swap else batch.image
        shown = torch.where(batch.focus, method.pieces.mask, batch.words)
        state = method.encode(replace(batch, image=image, shown=shown, hidden=batch.focus))["state"]
        said = method.bert.words(state).argmax(-1) == batch.words
        right["entities"] += said[batch.entity].float().tolist()
        right["descriptors"] += said[batch.focus & ~batch.entity].float().tolist()
    return {name: float(np.mean(some)) for name, some in right.items()}


def tested(method: Ecamp, samples: Sequence[Any], size: int) -> list[MaskedBatch]:
    """Held-out samples in batches, no sentences put in."""
    method.settings = method.settings.model_copy(update={"context": 0.0})
    method.chance = (1, 0)
    return [method.collate(samples[start : start + size]) for start in range(0, len(samples), size)]


def told(method: Ecamp, batches: Sequence[MaskedBatch]) -> Figures:
    """Words with the own picture and with another patient's."""
    own, other = words(method, batches, False), words(method, batches, True)
    return {**own, **{f"{name}, another's picture": value for name, value in other.items()}}


# --- films and crops


def films(store: Store, steps: int, quick: bool, out: Path, plain: bool) -> Figures:
    """ECAMP, or plain masked words, on films."""
    own = FilmDataSettings(size=128, batch=32)
    learned = FilmDataset(store, "train", own)
    held = FilmDataset(store, "test", own, training=False)
    bank = TextBank(out / "films", NoEncoder())  # pyright: ignore[reportArgumentType]
    for dataset in (learned, held):
        dataset.bind(bank.ids(dataset.texts).tolist())
    samples = [held.sample(row) for row in range(min(len(held), 64 if quick else 256))]
    some = np.stack([learned.sample(row).image for row in range(min(len(learned), 200))])
    average = halved(torch.from_numpy(some).mean(0, keepdim=True))
    method = objective(bank, learned.texts, 2, 1, plain, quick)
    spent = train(method, learned.samples, steps)
    batches = tested(method, samples, 32)
    return told(method, batches) | {"cpu_s": spent} | pictures(method, batches, average, own.std)


def crops(store: Store, steps: int, quick: bool, out: Path) -> Figures:
    """ECAMP on crops of organs."""
    dictionaries = (load_organs(), load_abnormalities())
    settings = DataSettings(organs=ORGANS, negatives=0)
    learned = OrganDataset(store, "train", *dictionaries, settings)
    held = OrganDataset(store, "test", *dictionaries, settings)
    bank = TextBank(out / "crops", NoEncoder())  # pyright: ignore[reportArgumentType]
    for dataset in (learned, held):
        dataset.bind(bank.ids(dataset.texts).tolist(), dictionaries[0].names)
    sampler = BalancedSampler(learned.sayings, SamplingSettings(batch=16, organs=8), 0)

    def batch(step: int) -> Sequence[Any]:
        rng = sampler.rng(step)
        return learned.samples(sampler.rows(rng), rng)

    count = min(len(held), 64 if quick else 256)
    order = np.random.default_rng(0).permutation(len(held))[:count].tolist()
    samples = held.samples(order, np.random.default_rng(0))
    channels = samples[0].image.shape[0]
    some = np.stack([one.image for one in batch(0)]).astype(np.float32)
    average = halved(torch.from_numpy(some).mean(0, keepdim=True))
    method = objective(bank, learned.texts, 3, channels, False, quick)
    spent = train(method, batch, steps)
    batches = tested(method, samples, 32)
    return told(method, batches) | {"cpu_s": spent} | pictures(method, batches, average, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", nargs="?", choices=("films", "words", "crops"), help="one of the three alone")
    parser.add_argument("--quick", action="store_true", help="few studies, few steps, narrow networks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--films", type=Path, metavar="STORE", help="a store of films")
    parser.add_argument("--scans", type=Path, metavar="STORE", help="a store of CTs with masks")
    parser.add_argument("--steps", type=int, help="training steps of each")
    asked = parser.parse_args()
    steps = asked.steps or (20 if asked.quick else 300)
    results: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory(prefix="ctglip-ecamp-") as scratch:
        out = Path(scratch)
        wanted = [asked.part] if asked.part else ["films", "words", "crops"]
        if wanted != ["crops"]:
            where = asked.films or simulated(out / "films-made", 60 if asked.quick else 500, films=True)
            for part in wanted[:2]:
                name = "films, ECAMP" if part == "films" else "films, plain masked words"
                results[name] = films(Store.open(where), steps, asked.quick, out / part, part == "words")
        if "crops" in wanted:
            where = asked.scans or simulated(out / "scans-made", 30 if asked.quick else 80, films=False)
            results["crops, ECAMP"] = crops(Store.open(where), steps, asked.quick, out)
    for name, found in results.items():
        print(f"\n{name}")
        for key, value in found.items():
            print(f"  {key:55s} {value:8.3f}")
    if asked.json:
        asked.json.write_text(json.dumps({"steps": steps, "results": results}, indent=2))


if __name__ == "__main__":
    main()
