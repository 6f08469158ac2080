"""Masked modelling of pictures and reports: the published terms, seeded holes, and what is learned by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ctglip.config import load_settings
from ctglip.data.samples import StudySample
from ctglip.errors import ConfigError
from ctglip.features.text_bank import TextBank
from ctglip.losses.masked import patchify, unpatchify
from ctglip.models.dual_encoder import DualEncoder
from ctglip.models.encoders.vit import ViTSettings
from ctglip.models.fusion import ReportBertSettings
from ctglip.models.masked import MaskedImageSettings, SuperResolutionHead, halved
from ctglip.objectives.base import StepContext, join, total
from ctglip.objectives.ecamp import Ecamp, EcampOrganSettings, EcampSettings
from ctglip.objectives.mixture import Mixture
from ctglip.reports.wordpiece import WordPieceSettings, learn_pieces
from ctglip.training.gradcache import accumulated_backward
from ctglip.training.pretrain_config import PretrainConfig
from tests.models.building import dual_encoder
from tests.objectives.studies import without_organs
from tests.objectives.toys import model as cnn_model
from tests.objectives.toys import organ_samples

LENGTH = 32


def text_of(number: int) -> str:
    side, size = ("left", "right")[number % 2], ("small", "large")[number // 2 % 2]
    return f"There is a {size} {side} effusion. No pneumothorax."


def picture_of(number: int, dims: int, rng: np.random.Generator, side: int = 32) -> np.ndarray:
    """A bright blot on one side, small or large, with sharp edges, on a slope of grey with a little noise."""
    image = np.zeros([side] * dims, np.float32)
    image += np.linspace(-0.5, 0.5, side)
    radius = side // 8 if number // 2 % 2 == 0 else side // 5
    centre = [rng.integers(radius, side - radius) for _ in range(dims - 1)]
    centre += [side // 4 if number % 2 == 0 else 3 * side // 4]
    points = np.stack(np.meshgrid(*[np.arange(side)] * dims, indexing="ij"))
    distance = sum((axis - at) ** 2 for axis, at in zip(points, centre, strict=True))
    image[distance < radius**2] += 2
    return (image + 0.02 * rng.standard_normal(image.shape))[None].astype(np.float32)


def studies(bank: TextBank, dims: int, count: int = 8, seed: int = 0, side: int = 32) -> list[StudySample]:
    rng = np.random.default_rng(seed)
    return [
        without_organs(f"s{seed}-{i}", picture_of(i, dims, rng, side)[None], int(bank.ids([text_of(i)])[0]))
        for i in range(count)
    ]


def vit_model(dims: int, channels: int = 1, patch: int = 4, **changes: Any) -> DualEncoder:
    torch.manual_seed(0)
    encoder = ViTSettings(spatial_dims=dims, patch=patch, image_size=4 * patch, dim=48, depth=2, heads=4)  # pyright: ignore[reportArgumentType]
    shape = {"embedding_dim": 16, "text_dim": 12}
    return dual_encoder(encoder=encoder, in_channels=channels, **(shape | changes))


def ecamp(bank: TextBank, dims: int, folder: Path | None = None, channels: int = 1, **settings: Any) -> Ecamp:
    pieces = learn_pieces([text_of(i) for i in range(4)] * 3, WordPieceSettings(vocabulary=300, length=LENGTH))
    small = {
        "image": MaskedImageSettings(width=48, depth=1, heads=4, **settings.pop("image", {})),
        "bert": ReportBertSettings(width=48, layers=1, heads=4, hidden=64, dropout=0),
    }
    kind = EcampOrganSettings if settings.get("name") == "ecamp_organs" else EcampSettings
    return Ecamp(vit_model(dims, channels), bank, pieces, kind(**(small | settings)), folder)


def train(objective: Ecamp, draw: Callable[[int], list[StudySample]], steps: int, lr: float = 3e-3) -> None:
    """Steps with new pictures and new holes each time."""
    optimizer = torch.optim.AdamW(objective.parameters(), lr=lr)
    for step in range(steps):
        loss = total(objective(objective.collate(draw(step), StepContext(step=step)))[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


# --- the published terms


def test_terms_of_the_released_code_value_and_gradient(bank):
    with np.load(Path(__file__).parents[1] / "parity" / "ecamp.npz") as stored:
        numbers = {name: torch.from_numpy(stored[name]) for name in stored.files}
    image, fine, prediction = numbers["ecamp/img"], numbers["ecamp/img_hr"], numbers["ecamp/pred"]
    corner = torch.stack([numbers["ecamp/win_i"], numbers["ecamp/win_j"]], dim=1)
    torch.manual_seed(0)
    objective = ecamp(bank, 2, denominator="all", image={"final_relu": True})
    objective.patch, objective.channels = 2, 3
    objective.super_resolution = SuperResolutionHead(3, 2, True).double()
    names = {"first.weight": "w1", "first.bias": "b1", "second.weight": "w2", "second.bias": "b2"}
    state: dict[str, Any] = {name: numbers[f"ecamp/{key}"] for name, key in names.items()}
    objective.super_resolution.load_state_dict(state)
    assert objective.bert is not None
    objective.bert.head = nn.Identity()
    logits = numbers["ecamp_mlm/logits"].clone().requires_grad_()
    own = prediction.clone().requires_grad_()
    labels = numbers["ecamp_mlm/labels"]
    features = {
        "prediction": own,
        "target": patchify(image, 2),
        "covered": numbers["ecamp/mask"],
        "sharp": objective.super_resolution(unpatchify(own, 2, (14, 14))),
        "fine": fine,
        "corner": corner,
        "state": logits,
        "words": labels,
        "hidden": torch.ones_like(labels, dtype=torch.bool),
        "weights": numbers["ecamp_mlm/weights"],
        "entity": torch.zeros_like(labels, dtype=torch.bool),
    }
    losses, _ = objective.compute(features)
    for name, key in (("image", "ecamp/mim"), ("sharp", "ecamp/sr"), ("words", "ecamp_mlm/loss")):
        assert losses[name].item() == pytest.approx(numbers[key].item(), abs=1e-5)
    total(losses).backward()
    expected = by_hand(numbers, corner)
    torch.testing.assert_close(own.grad, expected["prediction"], atol=1e-9, rtol=1e-6)
    torch.testing.assert_close(logits.grad, expected["logits"], atol=1e-9, rtol=1e-6)
    torch.testing.assert_close(objective.super_resolution.first.weight.grad, expected["w1"], atol=1e-9, rtol=1e-6)
    bias = objective.super_resolution.second.bias
    assert bias is not None
    torch.testing.assert_close(bias.grad, expected["b2"], atol=1e-9, rtol=1e-6)


def by_hand(numbers: dict[str, torch.Tensor], corner: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients of the three formulas written out once more, pixel by pixel."""
    prediction = numbers["ecamp/pred"].clone().requires_grad_()
    own = {name: numbers[f"ecamp/{name}"].clone().requires_grad_() for name in ("w1", "b1", "w2", "b2")}
    image, fine = numbers["ecamp/img"], numbers["ecamp/img_hr"]
    picture = prediction.view(2, 14, 14, 2, 2, 3).permute(0, 5, 1, 3, 2, 4).reshape(2, 3, 28, 28)
    hidden = numbers["ecamp/mask"].view(2, 1, 14, 14).repeat_interleave(2, 2).repeat_interleave(2, 3)
    image_loss = ((hidden * (picture - image)) ** 2).mean()
    large = F.interpolate(picture, scale_factor=2, mode="bilinear")
    sharp = F.conv2d(F.relu(F.conv2d(large, own["w1"], own["b1"], padding=1)), own["w2"], own["b2"], padding=1)
    window = torch.zeros(2, 1, 56, 56, dtype=fine.dtype)
    for row, (i, j) in enumerate(corner.tolist()):
        window[row, 0, 4 * i : 4 * (i + 12), 4 * j : 4 * (j + 12)] = 1
    sharp_loss = ((window * (F.relu(sharp + large) - fine)) ** 2).mean()
    logits = numbers["ecamp_mlm/logits"].clone().requires_grad_()
    likely = torch.log_softmax(logits, -1).gather(-1, numbers["ecamp_mlm/labels"][..., None])[..., 0]
    word_loss = -(numbers["ecamp_mlm/weights"] * likely).sum() / likely.numel()
    (image_loss + sharp_loss + word_loss).backward()
    found = {"prediction": prediction.grad, "logits": logits.grad, **{name: own[name].grad for name in own}}
    return {name: value for name, value in found.items() if value is not None}


# --- what holds for every objective


@pytest.mark.parametrize("dims", [2, 3])
def test_every_parameter_gets_a_gradient_and_only_the_image_encoder_is_the_models(bank, dims):
    objective = ecamp(bank, dims)
    losses, report = objective(objective.collate(studies(bank, dims, 4, side=16 if dims == 3 else 32)))
    assert set(losses) == {"image", "sharp", "words"}
    assert all(np.isfinite(list(report.values())))
    total(losses).backward()
    assert not [name for name, p in objective.named_parameters() if p.grad is None]
    assert not any("text_head" in name for name, _ in objective.named_parameters())
    assert not objective.aligned
    assert not objective.batch_coupled
    assert objective.diagnosis_scale is None


def test_holes_are_a_function_of_seed_step_and_study_alone(bank):
    objective, samples = ecamp(bank, 2), studies(bank, 2)
    whole = objective.collate(samples, StepContext(3, 5))
    torch.rand(3)
    part = objective.collate(samples[4:], StepContext(3, 5))
    for name in ("visible_patches", "words", "input_ids", "weights"):
        assert torch.equal(getattr(whole, name)[4:], getattr(part, name))
    other = objective.collate(samples, StepContext(3, 6))
    assert not torch.equal(whole.visible_patches, other.visible_patches)
    assert not torch.equal(whole.input_ids, other.input_ids)
    assert not (whole.hidden & (whole.words == objective.pieces.pad)).any()


def test_micro_batches_joined_are_the_batch(bank):
    objective, samples = ecamp(bank, 2), studies(bank, 2, 6)
    batch = objective.collate(samples)
    whole, _ = objective(batch)
    pieces = [batch.piece(0, 4), batch.piece(4, 6)]
    joined, _ = objective.compute(join([objective.encode(piece) for piece in pieces]))
    for name, loss in whole.items():
        torch.testing.assert_close(joined[name], loss, atol=1e-5, rtol=1e-5)
    exact = ecamp(bank, 2, denominator="all")
    exact.load_state_dict(objective.state_dict())
    total(exact(batch)[0]).backward()
    expected = [p.grad.clone() for p in exact.parameters() if p.grad is not None]
    exact.zero_grad()
    accumulated_backward(exact, pieces)
    for own, other in zip([p.grad for p in exact.parameters()], expected, strict=True):
        torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-4)


def test_padding_after_the_longest_text_changes_nothing_where_it_does_not_count(bank, monkeypatch):
    found = []
    for whole in (False, True):
        objective = ecamp(bank, 2, context=0.0).eval()
        if whole:
            monkeypatch.setattr(objective, "_length", lambda _: LENGTH)
        batch = objective.collate(studies(bank, 2, 4))
        assert batch.words.shape[1] == (LENGTH if whole else int((batch.words != objective.pieces.pad).sum(1).max()))
        losses, _ = objective(batch)
        total(losses).backward()
        found.append((losses, {name: p.grad for name, p in objective.named_parameters()}))
    assert ecamp(bank, 2, denominator="all").collate(studies(bank, 2, 4)).words.shape[1] == LENGTH
    for name, loss in found[0][0].items():
        torch.testing.assert_close(loss, found[1][0][name])
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], atol=1e-6, rtol=1e-4, msg=name)


def test_bfloat16_autocast_stays_near(bank):
    objective = ecamp(bank, 2)
    batch = objective.collate(studies(bank, 2))
    plain = total(objective(batch)[0])
    with torch.autocast("cpu", torch.bfloat16):
        losses, _ = objective(batch)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert total(losses).item() == pytest.approx(plain.item(), rel=0.05)


def test_a_picture_without_a_report_teaches_pictures_alone(bank):
    objective = ecamp(bank, 2)
    samples = [replace(one, report=-1) for one in studies(bank, 2, 4)]
    losses, report = objective(objective.collate(samples))
    assert losses["words"].item() == 0
    assert losses["image"].item() > 0
    assert np.isnan(report["word_accuracy"])
    total(losses).backward()
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.grad is not None)


def test_terms_can_be_left_out(bank):
    objective = ecamp(bank, 2, sharp_weight=0, word_weight=0)
    assert objective.settings.scale == 1
    losses, _ = objective(objective.collate(studies(bank, 2, 2)))
    assert set(losses) == {"image"}
    plain = ecamp(bank, 2, word_weight=0)
    losses, _ = plain(plain.collate(studies(bank, 2, 2)))
    assert set(losses) == {"image", "sharp"}


def test_what_does_not_fit_is_refused(bank):
    pieces = learn_pieces([text_of(0)], WordPieceSettings(length=LENGTH))
    with pytest.raises(ConfigError, match="transformer"):
        Ecamp(cnn_model(bank, 2), bank, pieces)
    plain = ecamp(bank, 2)
    with pytest.raises(ConfigError, match="patches"):
        plain.collate(studies(bank, 2, 2, side=36))


def test_organs_with_their_texts_and_fewer_channels_than_the_encoder_knows(bank):
    objective = ecamp(bank, 3, channels=3, name="ecamp_organs", sharp_weight=0)
    batch = objective.collate(organ_samples(bank, 2))
    losses, _ = objective(batch)
    total(losses).backward()
    assert batch.hidden.any()
    assert losses["image"].item() > 0


def test_in_a_mixture_parts_draw_the_same_and_one_aligned_part_aligns(bank):
    first, second = ecamp(bank, 2), ecamp(bank, 2)
    mixed = Mixture({"a": first, "b": second}, {"a": 1.0, "b": 0.5})
    assert not mixed.aligned
    samples = studies(bank, 2, 4)
    batch = mixed.collate({"a": samples, "b": samples}, StepContext(1, 2))
    assert torch.equal(batch.parts["a"].visible_patches, batch.parts["b"].visible_patches)
    assert set(mixed(batch)[0]) == {f"{part}/{name}" for part in "ab" for name in ("image", "sharp", "words")}


# --- what is learned


HELD_OUT = StepContext(9, 9)


def held_out(objective: Ecamp, samples: list[StudySample]) -> dict[str, torch.Tensor]:
    objective.eval()
    with torch.no_grad():
        return objective.encode(objective.collate(samples, HELD_OUT))


def better_than_the_mean(found: torch.Tensor, target: torch.Tensor, where: torch.Tensor) -> float:
    """Mean squared error, as a share of that of the mean over all pictures."""
    error, other = ((one - target).square() * where for one in (found, target.mean(0, keepdim=True)))
    return (error.sum() / other.sum()).item()


def shaded(bank: TextBank, count: int, seed: int) -> list[StudySample]:
    """Each picture has a level and a slope of its own, which any few patches tell."""
    rng = np.random.default_rng([seed, 1])
    level, slope = rng.uniform(-1, 1, (2, count, 1, 1, 1))
    images = level + slope * np.linspace(-1, 1, 16) + 0.02 * rng.standard_normal((count, 1, 16, 16))
    made = studies(bank, 2, count, seed, side=16)
    return [replace(one, images=image[None].astype(np.float32)) for one, image in zip(made, images, strict=True)]


@pytest.mark.slow
def test_hidden_patches_are_drawn_from_those_that_are_seen(bank):
    """By the term of pixels alone."""
    objective = ecamp(bank, 2, image={"ratio": 0.5}, sharp_weight=0, word_weight=0)
    train(objective, lambda step: shaded(bank, 32, step), 100)
    samples = shaded(bank, 64, 10_000)
    found = held_out(objective, samples)
    hidden = torch.ones(64, 16).scatter(1, objective.collate(samples, HELD_OUT).visible_patches, 0)[..., None]
    assert hidden.mean() == 0.5
    assert better_than_the_mean(found["prediction"], found["target"], hidden) < 0.2


@pytest.mark.slow
def test_windows_are_drawn_at_twice_the_resolution(bank):
    """By the term of the window alone: without words it is the first corner, 3 of 4 patches of 8 pixels a side."""
    objective = ecamp(bank, 2, image={"ratio": 0.5}, image_weight=0, word_weight=0)
    train(objective, lambda step: studies(bank, 2, 32, seed=step), 300)
    found = held_out(objective, studies(bank, 2, 64, seed=10_000))
    window = torch.zeros(32, 32)
    window[:24, :24] = 1
    assert better_than_the_mean(found["sharp"], found["fine"], window) < 0.5


def test_sharpening_is_better_than_interpolation(bank):
    """Told apart from what was decoded: halved pictures are sharpened. It starts at the interpolation, and its one
    unit is alive: from random weights the unit may be dead for good."""
    objective = ecamp(bank, 2, word_weight=0.0)
    assert objective.super_resolution is not None
    with torch.no_grad():
        for weights in objective.super_resolution.parameters():
            weights.zero_()
        objective.super_resolution.first.weight[0, 0, 1, 1] = 1
        objective.super_resolution.first.bias.fill_(1)  # pyright: ignore[reportOptionalMemberAccess]
    fine = objective.collate(studies(bank, 2, 64)).image
    coarse = patchify(halved(fine), 4)
    features = {"prediction": coarse, "target": coarse, "covered": torch.zeros(64, 16), "fine": fine}
    features["corner"] = torch.arange(128).view(64, 2) // 2 % 2
    optimizer = torch.optim.AdamW(objective.super_resolution.parameters(), lr=1e-2)
    for _ in range(200):
        losses, _ = objective.compute(features | {"sharp": objective.super_resolution(halved(fine))})
        optimizer.zero_grad()
        losses["sharp"].backward()
        optimizer.step()
    fine = objective.collate(studies(bank, 2, 64, seed=10_000)).image
    plain = F.interpolate(halved(fine), scale_factor=2, mode="bilinear")
    with torch.no_grad():
        sharp = objective.super_resolution(halved(fine))
    assert (sharp - fine).square().mean() < 0.93 * (plain - fine).square().mean()


@pytest.mark.slow
def test_entities_descriptors_are_told_from_the_picture(bank):
    """The side is a word before the entity, which the masking always hides: only the picture knows it."""
    objective = ecamp(bank, 2, image={"ratio": 0.25}, sharp_weight=0, context=0.0)
    train(objective, lambda step: studies(bank, 2, 32, seed=step, side=16), 200)
    test = studies(bank, 2, 64, seed=10_000, side=16)
    other = [replace(one, images=test[(i + 1) % len(test)].images) for i, one in enumerate(test)]
    sides = torch.tensor([objective.pieces.ids_of(word)[0] for word in ("left", "right")])
    right = {}
    for name, samples in (("own", test), ("another's", other)):
        found = held_out(objective, samples)
        assert objective.bert is not None
        with torch.no_grad():
            said = objective.bert.words(found["state"]).argmax(-1)
        asked = found["hidden"] & torch.isin(found["words"], sides)
        right[name] = (said == found["words"])[asked].float().mean().item()
    assert right["own"] > 0.85
    assert right["another's"] < 0.35


def test_released_sentences_are_put_into_the_report_of_their_study(bank, tmp_path):
    samples = studies(bank, 2, 2)
    (tmp_path / "released.json").write_text(json.dumps({samples[0].study_id: text_of(3)}))
    entities = {"entities": {"released": tmp_path / "released.json"}, "context": 1.0}
    objective = ecamp(bank, 2, **entities)
    plain = ecamp(bank, 2, context=0.0)
    longer, same = ((objective.collate(samples).words[i] != objective.pieces.pad).sum() for i in (0, 1))
    before = (plain.collate(samples).words != plain.pieces.pad).sum(1)
    assert longer > before[0], "its sentences stand in the report"
    assert same == before[1], "the file does not name it"


def test_crops_of_organs_refuse_released_sentences():
    """They are of whole reports: no crop would ever be given one."""
    with pytest.raises(ConfigError, match=r"objective\.entities\.released is set"):
        load_settings(PretrainConfig, "pretrain/ecamp_organs", ["objective.entities.released=sentences.json"])
