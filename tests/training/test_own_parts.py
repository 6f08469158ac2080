"""An encoder and an objective of one's own: a class each and a line in a registry, then all commands know them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

from ctglip.cli.main import app
from ctglip.config import load_settings
from ctglip.data.collate import collate_organs
from ctglip.data.samples import OrganBatch
from ctglip.errors import ConfigError
from ctglip.models.encoders import ENCODERS
from ctglip.models.encoders.base import Encoder, EncoderSettings
from ctglip.models.region_readers import Regions
from ctglip.models.release import load_release
from ctglip.objectives.base import (
    START,
    BuildContext,
    Features,
    LogitScale,
    Losses,
    ModelNeeds,
    Objective,
    ObjectiveSettings,
    StepContext,
    StepReport,
)
from ctglip.objectives.registry import OBJECTIVES
from ctglip.objectives.texts import Texts, positions
from ctglip.store.tables import Store
from ctglip.training.pretrain_config import PretrainConfig
from tests.training.conftest import tiny_config
from tests.training.tiny import tiny_study


class PatchSettingsOfMine(EncoderSettings):
    name: Literal["my_patches"] = "my_patches"  # pyright: ignore[reportIncompatibleVariableOverride]
    width: int = 16


class MyPatches(Encoder):
    """One linear layer over patches."""

    Settings = PatchSettingsOfMine

    def __init__(self, settings: PatchSettingsOfMine, in_channels: int) -> None:
        super().__init__()
        self.settings = settings
        self.embed = nn.Conv3d(in_channels, settings.width, 4, 4)
        self.level_channels, self.token_dim = (settings.width,) * 2, settings.width
        self.strides = ((4, 4, 4),) * 2

    def maps(self, image: Tensor) -> tuple[Tensor, ...]:
        x = self.embed(image)
        return x, x.relu()


class CosineSettings(ObjectiveSettings):
    name: Literal["my_cosine"] = "my_cosine"  # pyright: ignore[reportIncompatibleVariableOverride]
    weight: float = 1.0


class MyCosine(Objective):
    """Each organ is drawn to its text."""

    Settings = CosineSettings
    input_kind = "organs"
    model_needs = ModelNeeds(readers=("crop",))

    def __init__(self, context: BuildContext, settings: CosineSettings) -> None:
        super().__init__()
        self.model, self.settings = context.model, settings
        self.texts, self.scale = Texts(context.bank), LogitScale()

    @property
    def diagnosis_scale(self) -> LogitScale:
        return self.scale

    @classmethod
    def build(cls, context: BuildContext, settings: CosineSettings) -> MyCosine:
        return cls(context, settings)

    def collate(self, samples: Sequence[Any], context: StepContext = START) -> OrganBatch:
        return collate_organs(samples, self.texts.collate)

    def encode(self, batch: OrganBatch) -> Features:
        organ = self.model(batch.image, Regions(mask=batch.mask, size=batch.size))
        return {"organ": organ, "pool": self.texts(batch.pool), **batch.texts()}

    def compute(self, features: Features, context: StepContext = START) -> tuple[Losses, StepReport]:
        text = self.model.text(features["pool"])[positions(features["text_id"], features["pool_ids"])]
        similarity = self.scale() * self.model.diagnosis(features["organ"]) @ text.T
        loss = F.cross_entropy(similarity, torch.arange(len(text)))
        return {"cosine": self.settings.weight * loss}, {"progress": context.progress}


@pytest.fixture
def registered() -> Iterator[None]:
    ENCODERS["my_patches"] = MyPatches
    OBJECTIVES["my_cosine"] = MyCosine
    yield
    del ENCODERS["my_patches"], OBJECTIVES["my_cosine"]


def called(*arguments: str | Path) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_they_are_trained_saved_loaded_evaluated_and_asked(
    registered: None, tiny: tuple[Store, Path], word_bert: Path, tmp_path: Path
) -> None:
    store, truth = tiny
    tree = tiny_config(word_bert, steps=3, trackers=[]).model_dump(mode="json")
    tree["model"]["encoder"] = {"name": "my_patches", "width": 24}
    tree["objective"] = {"name": "my_cosine", "weight": 0.5}
    config = tmp_path / "own.yaml"
    config.write_text(yaml.safe_dump(tree))
    run = tmp_path / "run"
    called("pretrain", store.path, run, "--config", config)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["progress"] for line in lines if "loss_cosine" in line] == pytest.approx([0, 1 / 3, 2 / 3])
    model = load_release(run).model
    assert isinstance(model.encoder, MyPatches)
    assert model.encoder.embed.out_channels == 24
    assert model.anatomy_head is None
    found = called("evaluate", run, store.path, tmp_path / "out", "--labels", truth, "--set", "draws=20",
                   "--set", "min_positives=1", "--set", "parts=[]", "--set", "pictures=false")  # fmt: skip
    assert 0 <= found["macro_auroc"]["value"] <= 1
    scan, labels, _, _ = tiny_study(np.random.default_rng(5))
    for name, array in (("scan", scan.hu), ("masks", labels.labels)):
        nib.save(nib.Nifti1Image(array, scan.affine), tmp_path / f"{name}.nii.gz")
    asked = called("query", run, tmp_path / "scan.nii.gz", "--masks", tmp_path / "masks.nii.gz",
                   "--ask", "liver: fatty liver", "--out", tmp_path / "answers")  # fmt: skip
    assert 0 < asked["answers"][0]["probability"] < 1


def test_their_settings_are_checked_and_in_the_schema(registered: None) -> None:
    with pytest.raises(ConfigError, match=r"model\.encoder\.widht: unknown setting, did you mean 'width'"):
        load_settings(PretrainConfig, None, ["model.encoder={name: my_patches, widht: 3}"])
    with pytest.raises(ConfigError, match=r"objective\.weight: Input should be a valid number"):
        load_settings(PretrainConfig, None, ["objective={name: my_cosine, weight: much}"])
    text = json.dumps(PretrainConfig.model_json_schema())
    assert "PatchSettingsOfMine" in text
    assert "CosineSettings" in text


def test_names_that_nobody_registered_are_named() -> None:
    with pytest.raises(ConfigError, match=r"model\.encoder: .*'my_patches'.*expected one of: cnn, resnet"):
        load_settings(PretrainConfig, None, ["model.encoder.name=my_patches"])
