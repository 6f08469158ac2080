"""A fine-tuning of scans begins at a trained nnU-Net's weights, or at nothing, as at a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ctglip.errors import ConfigError, CTGLIPError, StoreError
from ctglip.models.encoders import build_encoder
from ctglip.models.encoders.nnunet import NNUNetSettings
from ctglip.models.release import load_release
from ctglip.models.state_export import save_nnunet
from ctglip.store.tables import Store
from ctglip.tasks.base import Initialization
from ctglip.tasks.ct_segmenter import ScanSegmenter
from ctglip.tasks.network import initial_model
from ctglip.tasks.starts import encoder_release, names_encoder
from ctglip.tasks.tuning import finetune
from tests.tasks.blobs import write_blobs
from tests.tasks.test_ct_segmentation import config
from tests.training.tiny import write_tiny_radiographs


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_blobs(tmp_path_factory.mktemp("blobs") / "store", 12)


@pytest.fixture
def trained_nnunet(tmp_path: Path) -> Path:
    """A folder as nnU-Net leaves it: plans and a checkpoint with two input channels."""
    folder = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    torch.manual_seed(3)
    encoder = build_encoder(NNUNetSettings(widths=(8, 16), blocks=(1, 1)), 2)
    settings = encoder.settings
    (folder / "fold_0").mkdir(parents=True)
    save_nnunet(encoder, folder / "fold_0" / "checkpoint_final.pth")  # type: ignore[arg-type]
    plan = {"architecture": settings.architecture}  # type: ignore[attr-defined]
    plans = {"configurations": {"3d_fullres": plan}, "transpose_forward": [0, 1, 2]}
    (folder / "plans.json").write_text(json.dumps(plans))
    return folder


SHORT = {"epochs": 1, "patience": 0, "batch": 4, "device": "cpu"}


def test_a_trained_nnunet_and_nothing_are_starts(blobs: Store, trained_nnunet: Path, tmp_path: Path) -> None:
    own = {"targets": ["liver"], "width": 8, "patch": [16, 16, 16], "val_scans": 1, "overlap": 0.0}
    settings = config(segmentation=own, fit=SHORT, scratch_fit=SHORT, mode="probe", baselines=("cnn", "scratch"))
    results = finetune(Path(f"nnunet={trained_nnunet}"), blobs.path, tmp_path / "out", None, settings)
    starts = {point.initialization: point.mode for point in results.points}
    assert starts == {"nnunet": "probe", "cnn": "full", "scratch": "full"}
    release = load_release(tmp_path / "out")
    theirs = encoder_release(f"nnunet={trained_nnunet}", blobs).model.encoder.state_dict()
    mine = release.model.encoder.state_dict()
    assert all(torch.equal(theirs[name], mine[name]) for name in theirs), "the frozen encoder is nnU-Net's"
    assert not release.aligned
    assert str(trained_nnunet) in json.dumps(release.provenance["started_from"])
    assert ScanSegmenter(tmp_path / "out").settings.targets == ("liver",)


def test_scratch_beside_released_weights_is_random(blobs: Store, trained_nnunet: Path) -> None:
    release = encoder_release(f"nnunet={trained_nnunet}", blobs)
    own, scratch = (initial_model(Initialization("x", release, random, "full")).encoder for random in (False, True))
    theirs = release.model.encoder.state_dict()
    assert all(torch.equal(theirs[name], value) for name, value in own.state_dict().items())
    weights = {name: value for name, value in scratch.state_dict().items() if value.ndim > 1}
    assert weights
    assert not any(torch.equal(theirs[name], value) for name, value in weights.items())


def test_weights_that_are_pickled_code_are_refused(blobs: Store, trained_nnunet: Path) -> None:
    class Code:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"network_weights": Code()}, trained_nnunet / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(CTGLIPError):
        encoder_release(f"nnunet={trained_nnunet}", blobs)


def test_what_is_no_start_is_named(blobs: Store, tmp_path: Path) -> None:
    assert names_encoder("cnn")
    assert names_encoder("suprem=FILE")
    assert not names_encoder(str(tmp_path))
    assert not names_encoder("a/run")
    with pytest.raises(ConfigError, match=r"no encoder 'suprm'.*suprem"):
        encoder_release("suprm=weights.pth", blobs)
    with pytest.raises(ConfigError, match="no encoder 'mae' of scans"):
        encoder_release("mae=weights.pth", blobs)
    with pytest.raises(CTGLIPError):
        encoder_release("suprem=/nowhere/weights.pth", blobs)
    with pytest.raises(StoreError, match="store of radiographs"):
        encoder_release("cnn", write_tiny_radiographs(tmp_path / "cxr", 4)[0])
