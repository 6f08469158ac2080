"""ECAMP on simulated patients: hidden patches and sharpened windows beside interpolation, words filled in beside plain
masked words, and what each term is for.

    python -m experiments.ecamp [radiographs|words|crops|ablation] [--quick] [--json FILE] [--cxr STORE] [--scans STORE]
                               [--steps N] [--seeds A ..] [--arms A ..] [--split val]

Radiographs and crops of organs are of held-out patients (the split test; val is for choosing). Pictures: PSNR over the
range of grey values, of the patches that were hidden and of the window at twice the resolution. Words: entities and the
two words before each are hidden, and of the rest as much as published ("published holes") or nothing ("rest shown");
how many are said rightly, and their cross-entropy in nats, with the own picture and with another patient's. "words" is
the same network with every word hidden alike and no entity sentences: plain masked words. Labels: macro AUROC of a
logistic regression on the frozen encoder's vector of each radiograph, learned on the radiographs of training.

Sizes are for small machines: radiographs of 64 pixels (the encoder sees 32), half of the patches and 3 words of 10 are
hidden, and sentences are put into 3 texts of 10 (published: three quarters, 7 and 8 of 10, of which so few steps learn
no words). Stores that are not named are simulated.
Figures say how well the machinery learns, nothing about clinical use.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctglip.cli.console import print_line, print_note
from ctglip.data.cxr import CxrDataSettings
from ctglip.data.organs import CropDataSettings, OrganDataset
from ctglip.data.sampling import SamplingSettings
from ctglip.data.studies import StudyDataset
from ctglip.features.text_bank import TextBank
from ctglip.models.dual_encoder import DualEncoder, DualEncoderSettings
from ctglip.models.encoders.vit import ViTSettings
from ctglip.models.fusion import ReportBertSettings
from ctglip.models.masked import MaskedImageSettings, halved
from ctglip.models.region_readers import ModelInputs
from ctglip.objectives.base import StepContext, total
from ctglip.objectives.ecamp import Ecamp, EcampOrganSettings, EcampSettings
from ctglip.reports.entities import entity_templates
from ctglip.reports.wordpiece import WordPieceSettings, learn_pieces
from ctglip.store.tables import Store
from ctglip.training.optim import OptimSettings, build_optimizer, set_learning_rate
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs
from experiments.command import keep, parser_of, run_ctglip
from experiments.ecamp.figures import Figures, labelled, pictures, tested, told

ORGANS = ("liver", "spleen", "kidney_left", "kidney_right", "lung_left", "lung_right", "heart", "aorta")
Results = dict[str, list[Figures]]
Stores = Callable[[str], Path]
Changes = dict[str, Any]
PLAIN: Changes = {"masking": {"kind": "uniform"}, "context": 0.0}
ARMS: dict[str, Changes] = {
    "ECAMP": {},
    "plain masked words": PLAIN,
    "- words": {"word_weight": 0.0},
    "- sharpening": {"sharp_weight": 0.0},
    "- image": {"image_weight": 0.0},
    "- context sentences": {"context": 0.0},
    "- fusion": {"bert": {"reads": False}},
}
CXR = 64
"""Pixels of a radiograph at the resolution of the sharpened picture."""
CHANCES = {"word": 0.3, "context": 0.3}


class NoEncoder:
    """Stands where a text bank wants an encoder: ECAMP embeds no text."""

    dim, hash, trainable = 1, "none", False

    def encode(self, texts: Sequence[str], **_: Any) -> Tensor:
        """Nothing."""
        return torch.zeros(len(texts), 1)


def simulated(out: Path, studies: int, radiographs: bool) -> Path:
    """A store of simulated patients."""
    run_ctglip(
        "simulate",
        out / "cohort",
        "--level",
        "easy",
        "--studies",
        studies,
        "--seed",
        11,
        *(["--cxr"] if radiographs else []),
    )
    config = ["preprocess/cxr", "--set", "cxr.size=160"] if radiographs else ["preprocess/demo_3mm"]
    run_ctglip("preprocess", out / "cohort" / "cohort.csv", out / "store", "--config", *config)
    return out / "store"


# --- what is trained


def objective(
    bank: TextBank, texts: Sequence[str], dims: int, channels: int, quick: bool, changes: Changes, seed: int = 0
) -> Ecamp:
    """ECAMP with some of its settings changed."""
    torch.manual_seed(seed)
    width = 32 if quick else 64
    side = CXR // 2 if dims == 2 else 16
    encoder = ViTSettings(spatial_dims=dims, patch=4, image_size=side, dim=width, depth=2, heads=4)  # pyright: ignore[reportArgumentType]
    model = DualEncoder(DualEncoderSettings(encoder=encoder), ModelInputs(in_channels=channels, text_dim=1))
    kind, name = (EcampSettings, "cxr") if dims == 2 else (EcampOrganSettings, "ct")
    settings: dict[str, Any] = {
        "context": 0.3,
        **changes,
        "image": MaskedImageSettings(ratio=0.5, width=width, depth=1, heads=4),
        "bert": ReportBertSettings(
            width=3 * width // 2, layers=1, heads=4, hidden=3 * width, dropout=0, **changes.get("bert", {})
        ),
        "entities": {"entities": name},
        "masking": {**CHANCES, **changes.get("masking", {})},
    }
    length = 112 if dims == 2 else 64
    pieces = learn_pieces([*texts, *entity_templates(name)], WordPieceSettings(vocabulary=2000, length=length))
    return Ecamp(model, bank, pieces, kind(**settings))


def train(method: Ecamp, batch: Callable[[int], Sequence[Any]], steps: int, seed: int = 0) -> float:
    """Train; returns CPU seconds."""
    optim = OptimSettings(lr=3e-3, warmup=min(50, steps // 4))
    optimizer = build_optimizer(method, optim)
    clock = time.process_time()
    for step in range(steps):
        set_learning_rate(optimizer, step, steps, optim)
        losses, report = method(method.collate(batch(step), StepContext(seed, step)))
        optimizer.zero_grad()
        total(losses).backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step + 1 == steps:
            told = ", ".join(f"{key} {value:.3f}" for key, value in report.items())
            print_note(f"  step {step + 1}: {told}")
    method.eval()
    return time.process_time() - clock


# --- radiographs and crops


@dataclass(frozen=True)
class Asked:
    """What is measured.

    Attributes:
        steps: of training.
        quick: few held-out samples, narrow networks.
        split: judged.
        out: folder for texts.
    """

    steps: int
    quick: bool
    split: str
    out: Path


def radiographs(where: Path, asked: Asked, changes: Changes, seed: int = 0) -> Figures:
    """ECAMP on radiographs, with some settings changed."""
    store, size = Store.open(where), CXR if changes.get("sharp_weight", 1) else CXR // 2
    own = CxrDataSettings(size=size, margin=1.0, batch=32)
    bank = TextBank(asked.out / "radiographs", NoEncoder())  # pyright: ignore[reportArgumentType]
    dictionaries = (load_organs(), load_abnormalities())

    def opened(split: str, training: bool) -> StudyDataset:
        return StudyDataset(
            store, split, *dictionaries, own, seed,
            texts="pairs", text_ids=lambda texts: bank.ids(texts).tolist(), training=training,
        )  # fmt: skip

    learned = opened("train", True)
    plain = {name: opened(split, False) for name, split in (("train", "train"), ("held", asked.split))}
    held = plain["held"]
    samples = [held.sampled([row], 0)[0] for row in range(min(len(held), 64 if asked.quick else 256))]
    average = torch.from_numpy(np.stack([plain["train"].sampled([row], 0)[0].image for row in range(len(learned))]))
    average = average.mean(0, keepdim=True)
    average = halved(average) if size == CXR else average
    method = objective(bank, learned.texts, 2, 1, asked.quick, changes, seed)
    spent = train(method, learned.batch, asked.steps, seed)
    batches = tested(method, samples, 32)
    found = told(method, batches) | pictures(method, batches, average, own.std)
    return found | labelled(method, plain, where.parent / "cohort" / "truth.csv") | {"cpu_s": spent}


def crops(where: Path, asked: Asked, seed: int = 0) -> Figures:
    """ECAMP on crops of organs."""
    store, dictionaries = Store.open(where), (load_organs(), load_abnormalities())
    settings = CropDataSettings(organs=ORGANS, negatives=0, sampling=SamplingSettings(batch=16, organs=8))
    bank = TextBank(asked.out / "crops", NoEncoder())  # pyright: ignore[reportArgumentType]
    numbers = {"text_ids": lambda texts: bank.ids(texts).tolist()}
    learned = OrganDataset(store, "train", *dictionaries, settings, seed, **numbers)
    held = OrganDataset(store, asked.split, *dictionaries, settings, **numbers)
    count = min(len(held), 64 if asked.quick else 256)
    order = np.random.default_rng(0).permutation(len(held))[:count].tolist()
    samples = held.samples(order, np.random.default_rng(0))
    channels = samples[0].image.shape[0]
    some = np.concatenate([np.stack([one.image for one in learned.batch(step)]) for step in range(8)]).astype(
        np.float32
    )
    average = halved(torch.from_numpy(some).mean(0, keepdim=True))
    method = objective(bank, learned.texts, 3, channels, asked.quick, {}, seed)
    spent = train(method, learned.batch, asked.steps, seed)
    batches = tested(method, samples, 32)
    return told(method, batches) | {"cpu_s": spent} | pictures(method, batches, average, 0.5)


def measured(part: str | None, asked: Asked, seeds: Sequence[int], arms: Sequence[str], stores: Stores) -> Results:
    """The figures of every run by what it is, seed by seed."""
    results: Results = {}

    def note(name: str, found: Figures) -> None:
        results.setdefault(name, []).append(found)
        line = ", ".join(f"{key} {value:.3f}" for key, value in found.items())
        print_line(f"{name}: {line}")

    wanted = {"radiographs": ["ECAMP"], "words": ["plain masked words"], "crops": [], "ablation": list(arms)}
    chosen = wanted[part] if part else ["ECAMP", "plain masked words"]
    for seed in seeds:
        for arm in chosen:
            note(f"radiographs, {arm}", radiographs(stores("radiographs"), asked, ARMS[arm], seed))
        if part in (None, "crops"):
            note("crops, ECAMP", crops(stores("scans"), asked, seed))
    return results


def table(results: Results) -> str:
    """Means over seeds."""
    names = list(dict.fromkeys(name for runs in results.values() for name in runs[0]))
    lines = ["| | " + " | ".join(results) + " |", "|---" * (len(results) + 1) + "|"]
    for name in names:
        cells = [f"{np.mean([one[name] for one in runs]):.3f}" if name in runs[0] else "" for runs in results.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, show, and write."""
    parser = parser_of("ecamp", __doc__, "few studies, few steps, narrow networks")
    parser.add_argument(
        "part", nargs="?", choices=("radiographs", "words", "crops", "ablation"), help="one of these alone"
    )
    parser.add_argument("--cxr", type=Path, metavar="STORE", help="a store of radiographs")
    parser.add_argument("--scans", type=Path, metavar="STORE", help="a store of CTs with masks")
    parser.add_argument("--steps", type=int, help="training steps of each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), help="of the ablation")
    parser.add_argument("--split", choices=("val", "test"), default="test")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ctglip-ecamp-") as scratch:
        out, studies = (
            Path(scratch),
            {"radiographs": 60, "scans": 30} if asked.quick else {"radiographs": 700, "scans": 60},
        )

        given = {"radiographs": asked.cxr, "scans": asked.scans}

        @functools.cache
        def stores(kind: str) -> Path:
            return given[kind] or simulated(out / f"{kind}-made", studies[kind], radiographs=kind == "radiographs")

        about = Asked(asked.steps or (20 if asked.quick else 450), asked.quick, asked.split, out)
        results = measured(asked.part, about, asked.seeds, asked.arms, stores)
    print_line(f"\n{table(results)}")
    keep({"steps": about.steps, "split": about.split, "seeds": asked.seeds, "results": results}, asked.json)


if __name__ == "__main__":
    main()
