"""Maps point at what an answer hangs on, and lie where the organ lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ctglip.data.scans import ScanSettings
from ctglip.inference.heatmap import _added
from ctglip.inference.model_readers import reader_of
from ctglip.inference.pipeline import Pipeline
from ctglip.inference.readers import OrganReading
from ctglip.inference.scoring import Scorer
from ctglip.models.dual_encoder import DualEncoder, DualEncoderSettings
from ctglip.models.encoders import build_encoder
from ctglip.models.encoders.cnn import CNNSettings
from ctglip.models.release import load_release
from ctglip.store.study import organ_row
from ctglip.store.tables import Store


def test_a_voxel_adds_what_a_linear_similarity_takes_from_it() -> None:
    """For a mean over voxels and a linear head the contributions sum up to s - s(mean feature everywhere) = 0, and the
    voxel that carries the direction has the largest."""
    level = torch.zeros(1, 2, 4, 4, 4)
    level[0, 0, 1, 2, 3] = 5.0
    level[0, 1, 3, 3, 3] = 5.0
    level.requires_grad_(True)
    similarity = level.mean((2, 3, 4))[0, 0]
    gradient = torch.autograd.grad(similarity, [level])
    added = _added([level], gradient, (4, 4, 4))
    assert np.unravel_index(added.argmax(), added.shape) == (1, 2, 3)
    assert added.sum() == pytest.approx(0, abs=1e-6)
    assert abs(added[3, 3, 3]) < 0.1


def test_maps_of_scans_lie_where_the_encoder_looks() -> None:
    """Two levels of different strides put what one voxel adds at that voxel, not half a cell beside it."""
    fine, coarse = torch.zeros(1, 1, 8, 8, 8), torch.zeros(1, 1, 4, 4, 4)
    fine[0, 0, 2, 4, 6], coarse[0, 0, 1, 2, 3] = 1, 1
    gradients = [torch.ones_like(fine), torch.ones_like(coarse)]
    added = _added([fine, coarse], gradients, (16, 16, 16), "first")
    assert np.unravel_index(added.argmax(), added.shape) == (4, 8, 12)
    torch.manual_seed(0)
    encoder = build_encoder(CNNSettings(widths=(8, 16), blocks=(0, 1), norm="batch"), 1).eval()
    image = torch.randn(1, 1, 32, 32, 32, requires_grad=True)
    encoder(image).levels[-1][0, :, 4, 4, 4].square().sum().backward()
    assert image.grad is not None
    weight = image.grad[0, 0].abs()
    along = [
        float((weight.sum(tuple({0, 1, 2} - {axis})) * torch.arange(32)).sum() / weight.sum()) for axis in range(3)
    ]
    assert np.abs(np.array(along) - 16).max() < 1, "cell 4 of stride 4 sees voxel 16, not 17.5"
    assert encoder.anchor == "first"


def test_a_map_lies_on_the_organ(trained: tuple[Store, Path]) -> None:
    store, run = trained
    release = load_release(run)
    reader, scorer = reader_of(release), Scorer(release)
    study = store.study(store.study_ids[0])
    row = next(organ_row(r) for r in study.rows("organs") if r["organ"] == "kidney_left")
    crop = reader.prepare(study, [row])[0]
    readings, names = {row.organ: OrganReading(row, "crop")}, ["renal_cyst", "hydronephrosis"]
    one, two = reader.maps(study, readings, {row.organ: names}, scorer)
    values, affine = one.values, one.affine
    assert values.shape == crop.hu.shape
    assert not np.allclose(values, two.values)
    (alone,) = reader.maps(study, readings, {row.organ: names[:1]}, scorer)
    np.testing.assert_allclose(values, alone.values, atol=1e-6)
    assert float(np.abs(values).max()) == pytest.approx(1.0)
    assert (values[crop.mask == 0] == 0).all()
    inside = np.argwhere(crop.mask >= 128)
    world = inside @ affine[:3, :3].T + affine[:3, 3]
    box = np.array(row.box).reshape(3, 2)
    low, high = (study.affine[:3, :3] @ (box[:, side] - 0.5) + study.affine[:3, 3] for side in (0, 1))
    np.testing.assert_allclose(world.mean(0), (low + high) / 2, atol=4.0)
    assert (world > low - 4).all()
    assert (world < high + 4).all()


@pytest.mark.parametrize("reader", ["mask", "query"])
def test_models_of_whole_scans_have_maps_on_their_grid(
    trained: tuple[Store, Path], files: tuple[Path, Path], reader: str
) -> None:
    release, scans = load_release(trained[1]), ScanSettings(grid=(32, 32, 32))
    settings = {**release.model.settings.model_dump(), "regions": {"name": reader}}
    inputs = release.model.inputs.model_copy(update={"in_channels": scans.channels})
    torch.manual_seed(0)
    release.model = DualEncoder(DualEncoderSettings.model_validate(settings), inputs)
    release.scans = scans.model_dump(mode="json")
    model = Pipeline(release)
    answers = model.query(files[0], ["liver: fatty liver", "splenomegaly?"], masks=files[1])
    liver, spleen = model.heat_maps(answers)
    labels = np.asarray(answers.standardized.organs)
    for shown in (liver, spleen):
        assert shown.values.shape == scans.grid
        assert np.abs(shown.values).max() == 1.0
        there = np.argwhere(shown.values != 0)
        world = there @ shown.affine[:3, :3].T + shown.affine[:3, 3]
        index = (world - answers.standardized.affine[:3, 3]) @ np.linalg.inv(answers.standardized.affine[:3, :3]).T
        voxels = np.clip(np.rint(index).astype(int), 0, np.array(labels.shape) - 1)
        own = model.dictionaries.organs[shown.organ].label or 0
        assert (labels[tuple(voxels.T)] == own).mean() > 0.7
