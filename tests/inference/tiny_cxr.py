"""Small radiographs of a chest drawn with a few strokes, a store of them, and radiograph models with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from ctglip.cxr.picture import Radiograph
from ctglip.cxr.recipe import CxrRecipe
from ctglip.cxr.standardize import standardize_radiograph
from ctglip.data.crops import CropSettings
from ctglip.data.cxr import CxrDataSettings
from ctglip.models.encoders.cnn import CNNSettings
from ctglip.models.release import Release, save_release
from ctglip.models.text import TextEncoderSettings, load_text_encoder
from ctglip.reports.parser import get_parser
from ctglip.resources import resource
from ctglip.store.format import StoreInfo
from ctglip.store.splits import SplitSettings, assign_splits
from ctglip.store.study import SourceGrid, StudyRecord, write_study
from ctglip.store.tables import Store, compact, create_store
from ctglip.types import Region, Report
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs
from tests.models.building import dual_encoder

RECIPE = CxrRecipe(size=64)
FILMS = CxrDataSettings(size=48, margin=1.25, batch=4)
ORGANS = ("lung_left", "lung_right", "pleura_left", "pleura_right", "heart")
TRAINED = {
    "heart": ["cardiomegaly"],
    "lung_left": ["consolidation"],
    "lung_right": ["consolidation"],
    "pleura_left": ["pleural_effusion"],
    "pleura_right": ["pleural_effusion"],
}
BOXES = (
    Region("right_lung", 18, 90, 8, 44),
    Region("left_lung", 18, 90, 56, 92),
    Region("right_costophrenic_angle", 72, 90, 8, 24),
    Region("left_costophrenic_angle", 72, 90, 76, 92),
    Region("cardiac_silhouette", 52, 92, 40, 74),
)
"""In pixels of a radiograph of 120 x 100."""


def draw_radiograph(rng: np.random.Generator, truth: dict[str, int]) -> np.ndarray:
    """uint8 ``[120, 100]``: the patient's right is on the picture's left."""
    radiograph = np.full((120, 100), 130.0)
    radiograph[20:90, 10:42] = radiograph[20:90, 58:90] = 40
    heart = slice(36, 80) if truth["heart:cardiomegaly"] else slice(46, 70)
    radiograph[55:92, heart] = 190
    for side, columns in (("right", slice(10, 24)), ("left", slice(76, 90))):
        if truth[f"pleura_{side}:pleural_effusion"]:
            radiograph[74:90, columns] = 200
    return np.clip(radiograph + rng.normal(0, 4, radiograph.shape), 0, 255).astype(np.uint8)


def truth_of(rng: np.random.Generator) -> dict[str, int]:
    """What a radiograph shows, drawn."""
    pairs = ("heart:cardiomegaly", "pleura_left:pleural_effusion", "pleura_right:pleural_effusion")
    return {pair: int(rng.random() < 0.5) for pair in pairs}


def report_of(truth: dict[str, int]) -> Report:
    """Findings and impression that say the truth."""
    heart = "The heart is enlarged." if truth["heart:cardiomegaly"] else "The heart is normal in size."
    sides = [
        f"There is a {side} pleural effusion." if truth[f"pleura_{side}:pleural_effusion"]
        else f"There is no {side} pleural effusion."
        for side in ("left", "right")
    ]  # fmt: skip
    return Report(" ".join([heart, *sides]), "Abnormal." if any(truth.values()) else "No acute disease.")


def write_cxr_store(path: Path, studies: int, seed: int = 0) -> tuple[Store, Path]:
    """A store of drawn radiographs, each of a patient of its own, and the label table of what is true of them."""
    organs = load_organs()
    info = StoreInfo(
        modality="cxr",
        recipe=RECIPE.model_dump(mode="json"),
        recipe_hash=RECIPE.hash,
        dictionaries={"organs": organs.hash, "abnormalities": load_abnormalities().hash},
        labels=organs.label_names(),
    )
    store = create_store(path, info)
    rng, rows = np.random.default_rng(seed), []
    for number in range(studies):
        truth = truth_of(rng)
        pixels, report = draw_radiograph(rng, truth), report_of(truth)
        standardized = standardize_radiograph(Radiograph(pixels.astype(np.float32)), RECIPE, None, BOXES)
        name = f"f{number:03d}"
        record = StudyRecord(
            name,
            f"p{number:03d}",
            standardized,
            name,
            RECIPE.hash,
            report=report,
            findings=get_parser().parse(report),
            row={"modality": "cxr", "view": "pa"},
            source=SourceGrid(pixels.shape, np.eye(4)),
        )
        write_study(path, record)
        rows.append({"study_id": name, **truth})
    compact(store)
    assign_splits(store, SplitSettings(fractions=(0.5, 0.25, 0.25)))
    table = path.parent / f"{path.name}_truth.csv"
    pl.DataFrame(rows).write_csv(table)
    return Store.open(path), table


def cxr_release(bert: Path, seed: int = 0, trained: dict[str, list[str]] | None = None, **model: Any) -> Release:
    """A radiograph model with random weights; ``model`` changes its settings."""
    encoder = load_text_encoder(TextEncoderSettings(name=str(bert)))
    torch.manual_seed(seed)
    tree = {
        "encoder": CNNSettings(spatial_dims=2, widths=(8, 16, 32), blocks=(0, 1, 1), groups=4),
        "in_channels": 1,
        "image": {"name": "pooled"},
        "sizes": False,
        "anatomy": False,
        "dim": 32,
        "embedding_dim": 16,
        "text_dim": encoder.dim,
        "organs": len(ORGANS),
        **model,
    }
    return Release(
        model=dual_encoder(**tree).eval(),
        organs=ORGANS,
        recipe=RECIPE.model_dump(mode="json"),
        crops=CropSettings().model_dump(mode="json"),
        organ_dictionary=resource("organ_dictionary"),
        abnormality_dictionary=resource("abnormality_dictionary"),
        text_settings=TextEncoderSettings(name=str(bert)),
        text_hash=encoder.hash,
        text_encoder=encoder,
        provenance={"trained": TRAINED if trained is None else trained},
        cxr=FILMS.input.model_dump(mode="json"),
    )


def saved(folder: Path, release: Release) -> Path:
    """The release as a model folder."""
    return save_release(folder / "model", release)
