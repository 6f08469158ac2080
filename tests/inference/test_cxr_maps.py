"""Maps of whole radiographs: on toy radiographs that show a blot or none, a trained model's map peaks in the blot, and
the mean over the map's tokens is the answer itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ctglip.data.samples import StudySample
from ctglip.features.text_bank import TextBank
from ctglip.inference.cxr_maps import cxr_maps
from ctglip.inference.heatmap import on_pixels
from ctglip.models.aggregation import AggregationSettings
from ctglip.models.dual_encoder import DualEncoder
from ctglip.models.encoders import build_encoder
from ctglip.models.encoders.cnn import CNNSettings
from ctglip.models.text import TextEncoderSettings, load_text_encoder
from ctglip.objectives.base import Objective, total
from ctglip.objectives.imitate import Imitate, ImitateSettings
from ctglip.objectives.text_contrast import GlobalPair, GlobalPairSettings
from tests.models.building import dual_encoder
from tests.objectives.studies import without_organs
from tests.training.tiny import write_word_bert

SIZE, BLOT, SPREAD = 48, 6, 3
CELL = 4
FRAME = np.array([0, SIZE, 0, SIZE])
SAID = ("there is a blot", "all is even")


def radiograph(rng: np.random.Generator, blot: bool) -> tuple[np.ndarray, tuple[int, int]]:
    """Noise ``[1, 48, 48]``, with a soft bright blot somewhere or without, and the blot's middle."""
    image = 0.2 * rng.standard_normal((SIZE, SIZE))
    row, column = rng.integers(BLOT, SIZE - BLOT, 2)
    if blot:
        rows, columns = np.indices((SIZE, SIZE))
        image += 2 * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * SPREAD**2))
    return image[None].astype(np.float32), (int(row), int(column))


def made(bank: TextBank, pooling: str, method: str) -> Objective:
    torch.manual_seed(0)
    tree = {
        "encoder": CNNSettings(spatial_dims=2, widths=(8, 16, 32), blocks=(0, 1, 1), norm="batch"), "in_channels": 1,
        "dim": 32, "embedding_dim": 16, "text_dim": bank.dim,
        "image": {"name": "tokens", "levels": (-2,), "pooling": pooling},
    }  # fmt: skip
    model = dual_encoder(**tree)
    if method == "global_pair":
        return GlobalPair(model, bank, GlobalPairSettings(targets="equal_key"))
    small = AggregationSettings(keep=(0.5, 0.5, 0.5), grid=(4, 4), heads=2, tokens=16)
    return Imitate(model, bank, ImitateSettings(aggregation=small, strength=0.0))


def sample(image: np.ndarray, text: int, method: str) -> StudySample:
    views = np.stack([image] * (1 if method == "global_pair" else 2))
    return replace(without_organs("", views, text), findings=text, impression=text)


@pytest.mark.parametrize(("pooling", "method"), [("mean", "global_pair"), ("peak", "global_pair"), ("peak", "imitate")])
def test_a_trained_models_map_peaks_in_the_blot(tmp_path: Path, pooling: str, method: str) -> None:
    bank = TextBank(
        tmp_path / "bank", load_text_encoder(TextEncoderSettings(name=str(write_word_bert(tmp_path / "b"))))
    )
    ids = bank.ids(list(SAID)).tolist()
    objective = made(bank, pooling, method)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    rng = np.random.default_rng(0)
    for _ in range(80):
        batch = [sample(radiograph(rng, number % 2 == 0)[0], ids[number % 2], method) for number in range(16)]
        loss = total(objective(objective.collate(batch))[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model: DualEncoder = objective.model.eval()
    with torch.no_grad():
        text = model.text(bank.vectors(torch.tensor(ids))).numpy()
    axis = (text[0] - text[1])[None]
    hits, answers = [], {True: [], False: []}
    for number in range(40):
        image, (row, column) = radiograph(rng, number % 2 == 0)
        values = cxr_maps(model, image, FRAME, 0, "whole", axis)[0]
        with torch.no_grad():
            vision = model.encoder(torch.from_numpy(image[None]))
            answer = float(
                model.image_head(model.image_features(torch.from_numpy(image[None]))) @ torch.from_numpy(axis[0])
            )
            cells = torch.einsum("e,ehw->hw", torch.from_numpy(axis[0]), model.image_head.contributions(vision)[0])
        assert float(cells.mean()) == pytest.approx(answer, abs=1e-5)
        at_cells = slice(None, None, SIZE // len(cells))
        np.testing.assert_allclose(values[at_cells, at_cells], cells.numpy(), atol=1e-5)
        answers[number % 2 == 0].append(answer)
        if number % 2 == 0:
            at = np.array(np.unravel_index(values.argmax(), values.shape))
            hits.append(bool(np.hypot(*(at - [row, column])) <= BLOT + CELL))
    assert np.mean(np.greater.outer(answers[True], answers[False])) > 0.95, "told"
    assert np.mean(hits) > 0.85, "in the blot or the cell beside it; by chance 0.14"


def test_cells_are_laid_where_they_are_centred() -> None:
    """An odd kernel with padding is centred at the first pixel of its stride: a change there moves that cell most."""
    cells = torch.zeros(1, 4, 4)
    cells[0, 1, 2] = 1
    first, middle = (on_pixels(cells, (16, 16), anchor)[0].numpy() for anchor in ("first", "middle"))
    turned = on_pixels(cells.flip(2), (16, 16), ("first", "last"))[0].numpy()
    assert np.array_equal(turned, first[:, ::-1]), "an axis that is seen backwards"
    assert np.unravel_index(first.argmax(), (16, 16)) == (4, 8)
    assert first[4, 8] == 1
    at = np.argwhere(middle == middle.max())
    assert at.mean(0).tolist() == [5.5, 9.5]
    torch.manual_seed(0)
    encoder = build_encoder(CNNSettings(spatial_dims=2, widths=(8, 16), blocks=(0, 1), norm="batch"), 1).eval()
    assert encoder.anchor == "first"
    image = torch.randn(1, 1, 32, 32, requires_grad=True)
    encoder(image).levels[-1][0, :, 4, 4].square().sum().backward()
    assert image.grad is not None
    weight = image.grad[0, 0].abs()
    middle_of = [float((weight.sum(1 - axis) * torch.arange(32)).sum() / weight.sum()) for axis in (0, 1)]
    assert np.abs(np.array(middle_of) - 16).max() < 1, "cell 4 of stride 4 sees pixel 16, not 17.5"


def test_several_answers_at_once_are_those_one_by_one() -> None:
    torch.manual_seed(0)
    tree = {"encoder": CNNSettings(spatial_dims=2, widths=(8, 16), blocks=(0, 1)), "in_channels": 1, "dim": 16,
            "embedding_dim": 8, "text_dim": 8}  # fmt: skip
    rng = np.random.default_rng(0)
    shown = radiograph(rng, True)[0]
    axes = rng.normal(size=(3, 8)).astype(np.float32)
    for head in ("pooled", "tokens"):
        model = dual_encoder(**tree, image={"name": head})
        together = cxr_maps(model, shown, FRAME, 0, "whole", axes)
        assert model.training, "as it was"
        for values, axis in zip(together, axes, strict=True):
            np.testing.assert_allclose(values, cxr_maps(model, shown, FRAME, 0, "whole", axis[None])[0], atol=1e-5)
