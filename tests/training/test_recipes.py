"""The shipped recipes fit together, and each has a small config that two cores can run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from ctglip_preprocessing.driver import preprocess_cohort
from ctglip_preprocessing.settings import PreprocessConfig

from ctglip.cohort import read_cohort
from ctglip.config import load_settings
from ctglip.ct.recipe import CtRecipe
from ctglip.data.organs import CropDataSettings
from ctglip.data.scans import ScanDataSettings
from ctglip.models.encoders import build_encoder
from ctglip.models.release import load_release
from ctglip.objectives.registry import OBJECTIVES, parts_of
from ctglip.resources import resource
from ctglip.simulation.cohort import simulate_cohort
from ctglip.simulation.study import SimulationSettings
from ctglip.store.tables import Store
from ctglip.training.assembly import model_parts
from ctglip.training.launch import pretrain
from ctglip.training.pretrain_config import PretrainConfig
from ctglip.training.tracking import read_metrics
from ctglip.vocabulary.organs import load_organs

RECIPES = sorted(path.stem for path in resource("configs").glob("pretrain/*.yaml"))
BOTH = [f"pretrain/{name}" for name in RECIPES] + [f"small/{name}" for name in RECIPES]


@pytest.mark.parametrize("name", BOTH)
def test_what_the_encoder_sees_suits_it(name):
    config = load_settings(PretrainConfig, name)
    settings, inputs = model_parts(config, 384, load_organs(), ())
    with torch.device("meta"):
        encoder = build_encoder(settings.encoder, inputs.in_channels)
    crops = settings.regions is not None and settings.regions.name == "crop"
    whole = config.whole_images()
    grids = [config.data.crops.grid] if crops else []
    grids += [] if whole is None else [whole.input.grid]
    for grid in grids:
        assert not any(side % step for side, step in zip(grid, encoder.strides[-1], strict=True))
    levels = getattr(settings.regions, "levels", ())
    assert all(-len(encoder.level_channels) <= level < len(encoder.level_channels) for level in levels)


@pytest.mark.parametrize("name", RECIPES)
def test_a_small_config_is_the_same_method(name):
    large, small = (load_settings(PretrainConfig, at) for at in (f"pretrain/{name}", f"small/{name}"))
    readers = [config.model.regions and config.model.regions.name for config in (large, small)]
    assert readers[0] == readers[1] or "crop" in readers
    assert getattr(large.whole_images(), "text", None) == getattr(small.whole_images(), "text", None)
    parts = [
        [(key, part.name, getattr(part, "negatives", None)) for key, part in parts_of(c.objective).items()]
        for c in (large, small)
    ]
    assert parts[0] == parts[1]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Twenty simulated patients at 7 mm."""
    folder = tmp_path_factory.mktemp("recipes")
    simulate_cohort(folder / "cohort", 20, seed=3, settings=SimulationSettings(bodies=1, contrast=0, spacing_mm=7))
    config = PreprocessConfig(ct=CtRecipe(spacing_mm=(7.0, 7.0, 7.0)))
    preprocess_cohort(read_cohort(folder / "cohort" / "cohort.csv"), folder / "store", config)
    return Store.open(folder / "store")


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_small_config_trains_and_its_model_can_be_read(store, word_bert, tmp_path, name):
    data = load_settings(PretrainConfig, f"small/{name}").data
    batches = {"data.batch=2": isinstance(data, ScanDataSettings)}
    if isinstance(data, CropDataSettings):
        batches = {"data.sampling.batch=12": True, "data.scans.batch=2": data.scans is not None}
    steps = ["loop.steps=2", "loop.log_every=1", "loop.threads=1", *(one for one, there in batches.items() if there)]
    config = load_settings(PretrainConfig, f"small/{name}", [*steps, f"text.name={word_bert}", "text.max_length=60"])
    folder = pretrain(store.path, tmp_path / "run", config)
    release = load_release(folder)
    kinds = {OBJECTIVES[part.name].input_kind for part in parts_of(config.objective).values()}
    assert release.provenance["trained"] or kinds == {"images"}
    assert all(torch.isfinite(value).all() for value in release.model.state_dict().values())
    lines = read_metrics(Path(tmp_path / "run"))
    assert math.isfinite(lines[0]["loss"])
    assert not release.aligned or 0 <= lines[-1]["val_macro_auroc"] <= 1
