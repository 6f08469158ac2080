"""The encoder as ONNX answers as PyTorch does, at any batch size; a wrong one is not written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ctglip.errors import MissingExtraError, ModelError
from ctglip.models import onnx as exporting
from ctglip.models.encoders import build_encoder
from ctglip.models.encoders.cnn import CNNSettings
from ctglip.models.encoders.nnunet import NNUNetSettings
from ctglip.models.encoders.resnet import ResNetSettings
from ctglip.models.encoders.vit import ViTSettings
from ctglip.resources import require

SMALL = {
    "cnn": CNNSettings(widths=(8, 16), blocks=(0, 1)),
    "vit": ViTSettings(dim=24, depth=2, heads=2, image_size=16, patch=8),
    "resnet": ResNetSettings(layers=(1, 1, 1, 1), widths=(8, 8, 16, 16), max_pool=False),
    "nnunet": NNUNetSettings(widths=(8, 16), blocks=(1, 1)),
}


@pytest.fixture
def runtime():
    for module in ("onnx", "onnxscript"):
        pytest.importorskip(module, reason="ONNX is in the extra [onnx]")
    return pytest.importorskip("onnxruntime", reason="ONNX is in the extra [onnx]")


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_onnxruntime_answers_as_pytorch(name: str, runtime, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(SMALL[name], 2).eval()
    path = tmp_path / "encoder.onnx"
    assert exporting.export_onnx(encoder, (2, 16, 16, 16), path, channels=("HU", "the organ")) <= 1e-4
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["channels"] == "HU\nthe organ"
    images = torch.randn(3, 2, 16, 16, 16)
    *levels, pooled = session.run(None, {"image": images.numpy()})
    with torch.no_grad():
        expected = encoder(images)
    for level, their in zip(levels, expected.levels, strict=True):
        np.testing.assert_allclose(level, their.numpy(), atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(pooled, expected.pooled.numpy(), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_file_that_answers_otherwise_is_not_written(runtime, tmp_path: Path) -> None:
    encoder = build_encoder(SMALL["cnn"], 2)
    with pytest.raises(ModelError, match="answers otherwise"):
        exporting.export_onnx(encoder, (2, 16, 16, 16), tmp_path / "encoder.onnx", tolerance=-1.0)
    assert not list(tmp_path.iterdir())
    assert encoder.training


def test_without_the_extra_the_message_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(module: str, extra: str):
        return require("a_module_that_is_not_there", extra)

    monkeypatch.setattr(exporting, "require", absent)
    with pytest.raises(MissingExtraError, match=r"ctglip\[onnx\]"):
        exporting.export_onnx(build_encoder(SMALL["cnn"], 2), (2, 16, 16, 16), tmp_path / "encoder.onnx")
