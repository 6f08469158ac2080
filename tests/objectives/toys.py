"""Toy objectives over toy samples, one of each kind, in 2D and 3D; crops are 3D."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ctglip.data.augment import AugmentationParameters
from ctglip.data.crops import CropSettings, OrganCrop
from ctglip.data.samples import OrganSample, StudySample
from ctglip.features.text_bank import TextBank
from ctglip.models.aggregation import AggregationSettings
from ctglip.models.dual_encoder import DualEncoder
from ctglip.models.encoders.cnn import CNNSettings
from ctglip.models.encoders.vit import ViTSettings
from ctglip.models.resampler import ResamplerSettings
from ctglip.models.tags import TagSettings
from ctglip.objectives.asg import ASG, ASGSettings
from ctglip.objectives.base import Objective
from ctglip.objectives.dino import Dino, DinoSettings
from ctglip.objectives.imitate import Imitate, ImitateSettings
from ctglip.objectives.mim import Mim, MimSettings
from ctglip.objectives.mixture import Mixture
from ctglip.objectives.place import Place, PlaceSettings
from ctglip.objectives.text_contrast import (
    GlobalPair,
    GlobalPairSettings,
    OrganQuery,
    OrganQuerySettings,
    OrganText,
    OrganTextSettings,
)
from tests.models.building import dual_encoder
from tests.objectives.studies import image_samples, without_organs

PROMPTS = ["This is the liver.", "A spleen.", "The liver in CT.", "A CT of the spleen."]


def model(bank: TextBank, dims: int, **changes: Any) -> DualEncoder:
    torch.manual_seed(0)
    encoder = CNNSettings(spatial_dims=dims, widths=(8, 16), blocks=(0, 1))  # pyright: ignore[reportArgumentType]
    shape = {"in_channels": 2, "dim": 32, "embedding_dim": 16, "text_dim": bank.dim, "regions": {"name": "crop"}}
    known = {"organs": 3, "organ_labels": ((1,), (2,))}
    return dual_encoder(encoder=encoder, **{**shape, **known, **changes})


CROPS = CropSettings(grid=(16, 16, 16), relative_hu=False, mask_channel=False)


def organ_sample(
    hu: np.ndarray, size: np.ndarray, organ_id: int, study_index: int, text_id: int, negative_ids: np.ndarray
) -> OrganSample:
    """An organ that reaches 12 voxels along each axis."""
    mask = np.zeros(CROPS.grid, np.uint8)
    mask[2:14, 2:14, 2:14] = 255
    return OrganSample(
        crop=OrganCrop("", hu, np.zeros((0, *CROPS.grid), np.int8), mask, size.astype(np.float32), 0.0),
        settings=CROPS,
        parameters=AugmentationParameters(),
        organ_id=organ_id,
        study_index=study_index,
        text_id=text_id,
        text_key=text_id,
        negative_ids=negative_ids,
        sentence_ids=np.array([text_id]),
        row=0,
    )


def noise_hu(rng: np.random.Generator, mean: float = 0.0) -> np.ndarray:
    """A crop of noise, int16."""
    return np.rint(200 * (rng.standard_normal(CROPS.grid) + mean)).astype(np.int16)


def organ_samples(bank: TextBank, count: int = 8, negatives: int = 3, organs: int = 2) -> list[OrganSample]:
    """Sample i holds a random pattern and the text "finding i"; organ i % organs."""
    rng = np.random.default_rng(0)
    texts = bank.ids([f"finding {i}" for i in range(count)]).tolist()
    others = bank.ids([f"never {i}" for i in range(5)]).tolist()
    samples = []
    for i in range(count):
        chosen = rng.choice([*others, -1], size=negatives, replace=False)
        hu, size = noise_hu(rng, i % organs), rng.standard_normal(4)
        samples.append(organ_sample(hu, size, i % organs, i // organs, texts[i], chosen))
    return samples


def pair_samples(bank: TextBank, dims: int, count: int = 8) -> list[StudySample]:
    """Sample i holds a random pattern and the report "finding i"."""
    rng = np.random.default_rng(0)
    texts = bank.ids([f"finding {i}" for i in range(count)]).tolist()
    images = rng.standard_normal((count, 1, 2, *[16] * dims)).astype(np.float32)
    return [without_organs(f"s{i}", images[i], texts[i]) for i in range(count)]


def study_samples(bank: TextBank, dims: int, count: int = 4) -> list[StudySample]:
    """Two organs a study, each with a pattern and a text of its own; one study without organs."""
    rng = np.random.default_rng(1)
    half = slice(0, 8), slice(8, 16)
    texts = bank.ids([f"finding {i}" for i in range(2 * count)]).numpy().reshape(count, 2)
    others = bank.ids([f"never {i}" for i in range(5)]).numpy()
    samples = []
    for i in range(count + 1):
        organs = 0 if i == count else 2
        labels = np.zeros([16] * dims, np.uint8)
        image = rng.standard_normal((2, *[16] * dims)).astype(np.float32)
        boxes = np.zeros((organs, 2 * dims), np.float32)
        for organ in range(organs):
            labels[half[organ]] = organ + 1
            image[:, half[organ]] += rng.standard_normal((2, *[1] * dims))
            boxes[organ] = [half[organ].start, half[organ].stop, *[0, 16] * (dims - 1)]
        ids = texts[i] if organs else texts[0, :0]
        negatives = rng.choice(others, size=(organs, 2))
        size = rng.standard_normal((organs, 4)).astype(np.float32)
        columns = (size, np.arange(organs), ids, ids, negatives)
        samples.append(StudySample(f"s{i}", image[None], labels, boxes[None], *columns))
    return samples


def report_samples(bank: TextBank, dims: int, count: int = 8, views: int = 2) -> list[StudySample]:
    """Study i has a pattern and a report of its own; two regions (the last study has none), each with a pattern and a
    sentence, the second with one more that all studies share. Study 1 has no findings, study 2 no impression."""
    rng = np.random.default_rng(2)
    half = slice(0, 8), slice(8, 16)
    shared = int(bank.ids(["the same everywhere"])[0])
    samples = []
    for i in range(count):
        said = [f"finding {i}. second {i}", f"impression {i}", f"report {i}", f"finding {i}", f"second {i}"]
        findings, impression, report, *own = bank.ids(said).tolist()
        regions = 0 if i == count - 1 else 2
        image = rng.standard_normal((1, 2, *[16] * dims)) + rng.standard_normal((1, 2, *[1] * dims))
        boxes = np.zeros((views, regions, 2 * dims), np.float32)
        labels = np.zeros([16] * dims, np.uint8)
        for region in range(regions):
            labels[half[region]] = region + 1
            image[:, :, half[region]] += rng.standard_normal((1, 2, *[1] * dims))
            boxes[:, region] = [half[region].start, half[region].stop, *[0, 16] * (dims - 1)]
        noise = 0.1 * rng.standard_normal((views, 2, *[16] * dims))
        samples.append(
            StudySample(
                study_id=f"s{i}",
                images=(image + noise).astype(np.float32),
                boxes=boxes,
                size=np.zeros((regions, 4), np.float32),
                organ_id=np.arange(regions),
                text_id=np.array(own[:regions], np.int64),
                text_key=np.array(own[:regions], np.int64),
                negative_ids=np.zeros((regions, 0), np.int64),
                findings=-1 if i == 1 else findings,
                impression=-1 if i == 2 else impression,
                report=report,
                sentences={0: own[0], 1: own[1], 4: shared} if regions else {},
                organ_sentences=((0,), (1, 4))[:regions],
                tags=np.array([1, 0, -1, i % 2], np.int8),
                labels=labels,
            )
        )
    return samples


def organ_text(bank: TextBank, dims: int, **settings: Any) -> OrganText:
    owner = torch.tensor([0, 1, 0, 1])
    return OrganText(model(bank, dims), bank, bank.ids(PROMPTS), owner, OrganTextSettings(**settings))


def organ_text_pooled(bank: TextBank, dims: int) -> OrganText:
    net = model(bank, dims, regions={"name": "mask"})
    return OrganText(net, bank, bank.ids(PROMPTS), torch.tensor([0, 1, 0, 1]))


def organ_query(bank: TextBank, dims: int, regions: dict[str, Any], **settings: Any) -> OrganQuery:
    net = model(bank, dims, regions=regions, organs=2, anatomy=False)
    return OrganQuery(net, bank, OrganQuerySettings(**settings))


WHOLE = {"regions": None, "image": {"name": "pooled"}}
"""Whole images are read by their mean token."""
TOKENS = {"image": {"name": "tokens", "levels": (-2, -1), "pooling": "mean_peak"}}
"""Whole images are read token by token."""


def global_pair(bank: TextBank, dims: int, shape: dict[str, Any] | None = None, **settings: Any) -> GlobalPair:
    net = model(bank, dims, **{**WHOLE, **(shape or {})})
    return GlobalPair(net, bank, GlobalPairSettings(**settings))


ATTENTION = {"name": "mask", "pooling": "attention"}
TOKEN_BOX = {"name": "box", "pooling": "tokens", "levels": (-1,)}
HARD = {"soft_labels": 0.0}
"""Without soft targets, whose loss is never zero."""


def asg(bank: TextBank, dims: int, **changes: Any) -> ASG:
    tags = TagSettings(layers=1, hidden=16, dropout=0.0)
    shape = {"regions": {"name": "box"}, "image": {"name": "pooled"}, "anatomy": False, "sizes": False, "tags": tags}
    if changes.get("regions", {}).get("pooling") == "tokens":
        shape |= {"head_norm": "batch"}
    objective = changes.pop("objective", {})
    names = {"tag_names": ("edema", "mass", "tube", "line")}
    return ASG(model(bank, dims, **{**shape, **names, **changes}), bank, ASGSettings(**objective))


def instance(bank: TextBank, dims: int, queries: int = 4, **settings: Any) -> Place:
    resampler = ResamplerSettings(queries=queries, dim=16, layers=1, heads=2, levels=(-2, -1))
    shape = settings.pop("shape", {})
    net = model(bank, dims, **{**WHOLE, "anatomy": False, "resampler": resampler, **shape})
    patches = {"dim": 16, "heads": 2, "detail": 4, "patches": 16, **settings.pop("patches", {})}
    return Place(net, bank, PlaceSettings.model_validate({"min_words": 2, "patches": patches, **settings}))


def imitate(bank: TextBank, dims: int, head_norm: str = "layer", **settings: Any) -> Imitate:
    """IMITATE over the two levels of the toy encoder."""
    own = settings.pop("aggregation", {})
    small = AggregationSettings(**{"keep": (0.5, 0.5), "grid": (4,) * dims, "heads": 2, "tokens": 16, **own})
    shape = settings.pop("shape", {})
    net = model(bank, dims, **{**WHOLE, "head_norm": head_norm, **shape})
    return Imitate(net, bank, ImitateSettings(aggregation=small, **settings))


def mixture(bank: TextBank, dims: int) -> Mixture:
    net = model(bank, dims, image={"name": "pooled"})
    organs = OrganText(net, bank, bank.ids(PROMPTS), torch.tensor([0, 1, 0, 1]))
    parts = {"organ_text": organs, "global_pair": GlobalPair(net, bank)}
    return Mixture(parts, {"organ_text": 1.0, "global_pair": [(0.0, 0.2), (0.5, 1.0)]})


def mim(dims: int, depth: int = 2, **settings: Any) -> Mim:
    """Over patches of 4 of a transformer with a class token and a register."""
    torch.manual_seed(0)
    vit = {"patch": 4, "image_size": 16, "dim": 48, "depth": depth, "heads": 4, "class_token": True, "registers": 1}
    net = dual_encoder(encoder=ViTSettings(spatial_dims=dims, **vit), in_channels=2)  # pyright: ignore[reportArgumentType]
    return Mim(net, MimSettings.model_validate({"image": {"width": 48, "depth": 1, "heads": 4}, **settings}))


def dino(dims: int, encoder: str = "vit", **settings: Any) -> Dino:
    """Two global and three local views of a transformer, or of a CNN."""
    torch.manual_seed(0)
    kinds = {
        "vit": ViTSettings(spatial_dims=dims, patch=4, image_size=8, dim=24, depth=2, heads=2),  # pyright: ignore[reportArgumentType]
        "cnn": CNNSettings(spatial_dims=dims, widths=(8, 16), blocks=(0, 1)),  # pyright: ignore[reportArgumentType]
    }
    views = {"global_size": 8, "local_size": 4, "local_views": 3, **settings.pop("views", {})}
    tree = {"views": views, "head": {"hidden": 16, "bottleneck": 8, "count": 12}, "frozen_prototypes": 0.0, **settings}
    return Dino(dual_encoder(encoder=kinds[encoder], in_channels=2), DinoSettings.model_validate(tree))


Made = tuple[Objective, Any]
IMAGES_ALONE: dict[str, Callable[[int], Made]] = {
    "mim": lambda d: (mim(d), image_samples(d, 8)),
    "dino": lambda d: (dino(d), image_samples(d, 8)),
}
"""Objectives without texts."""
EVERY: dict[str, Callable[[TextBank, int], Made]] = {
    "organ_text": lambda b, d: (organ_text(b, 3), organ_samples(b)),
    "organ_text, mask": lambda b, d: (organ_text_pooled(b, d), study_samples(b, d)),
    "organ_query, crop": lambda b, d: (organ_query(b, 3, {"name": "crop"}, within_organ=False), organ_samples(b)),
    "organ_query, mask": lambda b, d: (organ_query(b, d, {"name": "mask"}, within_organ=False), study_samples(b, d)),
    "organ_query, mask, attention": lambda b, d: (
        organ_query(b, d, {"name": "mask", "pooling": "attention"}),
        study_samples(b, d),
    ),
    "organ_query, box": lambda b, d: (organ_query(b, d, {"name": "box"}, negatives="same_organ"), study_samples(b, d)),
    "organ_query, box, attention": lambda b, d: (
        organ_query(b, d, {"name": "box", "pooling": "attention"}),
        study_samples(b, d),
    ),
    "organ_query, query": lambda b, d: (organ_query(b, d, {"name": "query"}), study_samples(b, d)),
    "imitate": lambda b, d: (imitate(b, d, strength=0, view_temperature=0.03), report_samples(b, d)),
    "global_pair": lambda b, d: (global_pair(b, d), pair_samples(b, d)),
    "imitate, tokens": lambda b, d: (
        imitate(b, d, "batch", strength=0, view_temperature=0.03, shape=TOKENS),
        report_samples(b, d),
    ),
    "global_pair, tokens": lambda b, d: (global_pair(b, d, TOKENS), pair_samples(b, d)),
    "global_pair, sigmoid": lambda b, d: (global_pair(b, d, form="sigmoid"), pair_samples(b, d)),
    "asg, box, token": lambda b, d: (asg(b, d, regions=TOKEN_BOX, objective=HARD), report_samples(b, d)),
    "asg, whole by tokens": lambda b, d: (
        asg(b, d, regions=TOKEN_BOX, objective=HARD, **TOKENS),
        report_samples(b, d),
    ),
    "asg, query": lambda b, d: (asg(b, d, regions={"name": "query"}, organs=2, objective=HARD), report_samples(b, d)),
    "place": lambda b, d: (instance(b, d, correlation_weight=0.1), report_samples(b, d)),
    "place, tokens": lambda b, d: (instance(b, d, correlation_weight=0.1, shape=TOKENS), report_samples(b, d)),
    "mixture": lambda b, d: (
        mixture(b, 3),
        {"organ_text": organ_samples(b), "global_pair": pair_samples(b, 3)},
    ),
}
