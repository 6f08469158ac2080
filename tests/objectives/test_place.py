"""PLACE (re-implementation from the abstract): what may not matter does not, and sentences find what they speak of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ctglip.data.samples import StudySample
from ctglip.features.text_bank import TextBank
from ctglip.losses.correlation import correlation
from ctglip.models.encoders.vit import ViTSettings
from ctglip.models.resampler import ResamplerSettings
from ctglip.objectives.base import StepContext, total
from ctglip.objectives.place import Place, PlaceSettings, sentence_table
from ctglip.training.gradcache import cached_backward, micro_batches
from tests.models.building import dual_encoder
from tests.objectives.toys import instance, report_samples

TERMS = {"instance": "instance_weight", "batch": "batch_weight", "sentence": "sentence_weight",
         "correlation": "correlation_weight", "diversity": "diversity_weight"}  # fmt: skip


def losses_of(objective: Place, samples: list[StudySample]) -> dict[str, float]:
    with torch.no_grad():
        return {name: loss.item() for name, loss in objective(objective.collate(samples))[0].items()}


def test_sentences_stand_in_rows():
    ids = torch.tensor([7, -1, 8, 9, 4, 5, 6])
    study = torch.tensor([0, 0, 0, 2, 2, 2, 2])
    expected = torch.tensor([[7, 8, -1], [-1, -1, -1], [9, 4, 5]])
    assert torch.equal(sentence_table(ids, study, 3, 3), expected)
    assert torch.equal(sentence_table(ids[:0], study[:0], 2, 2), torch.full((2, 2), -1))


def test_short_and_late_sentences_do_not_count(bank):
    objective = instance(bank, 2, min_words=3, sentences=2, diversity_weight=1.0)
    said = ["one two three", "short one", "four five six", "seven eight nine"]
    numbers = bank.ids([*said, "other one"]).tolist()
    first, *rest = report_samples(bank, 2, 4)
    told = replace(first, sentences=dict(enumerate(numbers[:4])), organ_sentences=((), ()))
    batch = objective.collate([told, *rest])
    table = sentence_table(batch.sentence_id, batch.sentence_study, 4, 12)
    assert table[0, :3].tolist() == [numbers[0], numbers[2], -1]
    plain = losses_of(objective, [told, *rest])
    other = replace(told, sentences={0: numbers[0], 1: numbers[4], 2: numbers[2]})
    assert losses_of(objective, [other, *rest]) == pytest.approx(plain, abs=1e-6)
    fewer = replace(told, sentences={0: numbers[0]})
    assert losses_of(objective, [fewer, *rest])["batch"] != pytest.approx(plain["batch"], abs=1e-4)


def test_order_of_queries_and_sentences_does_not_matter(bank):
    objective, samples = instance(bank, 2, diversity_weight=1.0).eval(), report_samples(bank, 2)
    plain = losses_of(objective, samples)
    turned = [replace(one, sentences=dict(reversed(one.sentences.items()))) for one in samples]
    assert losses_of(objective, turned) == pytest.approx(plain, abs=1e-5)
    queries = objective.model.resampler.queries.weight
    queries.data = queries.data[torch.tensor([2, 0, 3, 1])]
    assert losses_of(objective, samples) == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_targets_of_patches_are_symmetric_and_blind_to_brightness_and_contrast(bank, dims):
    objective = instance(bank, dims, patches={"patches": 9}).eval()
    batch = objective.collate(report_samples(bank, dims))
    plain = objective.encode(batch)["patch_target"]
    brighter = objective.encode(replace(batch, images=3 * batch.images + 2))["patch_target"]
    assert plain.shape == (8, 9, 2 * 4**dims)
    matrix = correlation(plain, plain)
    torch.testing.assert_close(matrix, matrix.transpose(1, 2))
    torch.testing.assert_close(matrix.diagonal(dim1=1, dim2=2), torch.ones(8, 9))
    torch.testing.assert_close(correlation(brighter, brighter), matrix, atol=1e-4, rtol=0)


def test_patches_are_drawn_anew_in_training_alone(bank):
    objective = instance(bank, 2, patches={"patches": 5})
    batch = objective.collate(report_samples(bank, 2))
    again = objective.encode(batch)["patch_target"]
    assert torch.equal(objective.encode(batch)["patch_target"], again), "what is drawn travels in the batch"
    other = objective.collate(report_samples(bank, 2), StepContext(0, 1))
    assert not torch.equal(objective.encode(other)["patch_target"], again)
    objective.eval()
    still = [objective.encode(batch)["patch_target"] for _ in range(2)]
    assert torch.equal(*still)


@pytest.mark.parametrize("condition", ["sentences", "report", "none"])
def test_the_report_is_read_where_asked(bank, condition):
    objective, samples = instance(bank, 2, patches={"condition": condition}).eval(), report_samples(bank, 2)
    plain = losses_of(objective, samples)["correlation"]
    numbers = bank.ids(["something else entirely", "and one more thing"]).tolist()
    sentences = [replace(one, sentences=dict(enumerate(numbers)), organ_sentences=((), ())) for one in samples]
    reports = [replace(one, report=numbers[0]) for one in samples]
    changed = {
        "sentences": losses_of(objective, sentences)["correlation"],
        "report": losses_of(objective, reports)["correlation"],
    }
    for name, value in changed.items():
        assert (abs(value - plain) > 1e-6) == (name == condition)


def test_a_study_without_sentences_or_report_is_welcome(bank):
    silent = replace(report_samples(bank, 2)[-1], report=-1)
    for samples in ([silent, silent], [silent, *report_samples(bank, 2, 3)]):
        objective = instance(bank, 2)
        losses, _ = objective(objective.collate(samples))
        total(losses).backward()
        assert all(bool(torch.isfinite(loss)) for loss in losses.values())
        assert all(bool(torch.isfinite(p.grad).all()) for p in objective.parameters() if p.grad is not None)


@pytest.mark.parametrize("left_out", list(TERMS))
def test_a_term_of_weight_zero_is_not_there(bank, left_out):
    weights = {setting: float(name != left_out) for name, setting in TERMS.items()}
    objective = instance(bank, 2, **weights)
    losses, _ = objective(objective.collate(report_samples(bank, 2)))
    assert set(losses) == set(TERMS) - {left_out}
    total(losses).backward()
    unused = {n.split(".")[0] for n, p in objective.named_parameters() if p.requires_grad and p.grad is None}
    scales = {"instance": {"contrast", "model"}, "batch": {"batch_scale"}, "sentence": {"sentence_scale"}}
    assert unused <= scales.get(left_out, set())


def test_a_teacher_follows_the_encoder(bank):
    objective = instance(bank, 2, patches={"target": "teacher", "momentum": 0.75})
    task = objective.patches
    assert task is not None
    assert task.teacher is not None
    batch = objective.collate(report_samples(bank, 2))
    mine = [p.clone() for p in task.teacher.parameters()]
    with torch.no_grad():
        for p in objective.model.encoder.parameters():
            p.add_(1.0)
    objective(batch)
    for before, now in zip(mine, task.teacher.parameters(), strict=True):
        torch.testing.assert_close(now, before + 0.25)
        assert not now.requires_grad
    objective.eval()(batch)
    for before, now in zip(mine, task.teacher.parameters(), strict=True):
        torch.testing.assert_close(now, before + 0.25)


@pytest.mark.parametrize("patches", [5, 16])
def test_micro_batches_give_the_gradient_of_the_whole(bank, patches):
    """In training, with fewer patches than there are: every micro-batch compares the same ones."""
    gradients = []
    for cut in (False, True):
        torch.manual_seed(0)
        objective = instance(bank, 2, patches={"patches": patches}).double()
        batch = objective.collate(report_samples(bank, 2))
        if cut:
            cached_backward(objective, micro_batches(batch, 3))
        else:
            total(objective(batch)[0]).backward()
        gradients.append({n: p.grad for n, p in objective.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-5)


def test_pieces_joined_are_the_batch(bank):
    objective = instance(bank, 3, diversity_weight=1.0).eval()
    batch = objective.collate(report_samples(bank, 3))
    parts = [objective.encode(piece) for piece in micro_batches(batch, 3)]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    whole, pieces = objective(batch)[0], objective.compute(joined)[0]
    for name, loss in whole.items():
        torch.testing.assert_close(pieces[name], loss, atol=1e-5, rtol=1e-5)


# --- learning: six patterns, two of them on each radiograph at places of their own, and a sentence about each

_G = np.indices((8, 8))
PATTERNS = {
    "a bright spot": np.ones((8, 8)),
    "a dark spot": -np.ones((8, 8)),
    "lines from left to right": np.where(_G[0] // 2 % 2, 1, -1),
    "lines from top to bottom": np.where(_G[1] // 2 % 2, 1, -1),
    "a board of squares": np.where((_G[0] // 2 + _G[1] // 2) % 2, 1, -1),
    "a half moon": np.where(_G[0] >= 4, 1, -1),
}
SAYINGS = [f"There is {name}." for name in PATTERNS]


def radiographs(bank: TextBank, count: int, rng: np.random.Generator) -> tuple[list[StudySample], np.ndarray]:
    """Radiographs of 32 x 32, and for each its two patterns and the quarter of each."""
    numbers, told = bank.ids(SAYINGS).tolist(), []
    none = np.zeros(0, np.int64)
    samples = []
    for _ in range(count):
        image = rng.normal(0, 0.3, (1, 1, 32, 32)).astype(np.float32)
        kinds, quarters = rng.choice(len(SAYINGS), 2, replace=False), rng.choice(4, 2, replace=False)
        for kind, quarter in zip(kinds, quarters, strict=True):
            row, column = np.array(divmod(quarter, 2)) * 16 + rng.integers(0, 2, 2) * 8
            image[0, 0, row : row + 8, column : column + 8] += 2 * list(PATTERNS.values())[kind]
        own = [numbers[kind] for kind in kinds]
        report = int(bank.ids([" ".join(SAYINGS[kind] for kind in sorted(kinds))])[0])
        boxes = np.zeros((1, 0, 4), np.float32)
        samples.append(
            StudySample(
                "",
                image,
                None,
                boxes,
                np.zeros((0, 4), np.float32),
                none,
                none,
                none,
                none.reshape(0, 0),
                report,
                -1,
                report,
                dict(enumerate(own)),
            )
        )
        told.append([*kinds, *quarters])
    return samples, np.array(told)


def trained(bank: TextBank, steps: int = 150, **settings: float) -> Place:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    encoder = ViTSettings(spatial_dims=2, patch=8, image_size=32, dim=32, depth=1, heads=2)
    shape = {"in_channels": 1, "text_dim": bank.dim, "dim": 32, "embedding_dim": 16}
    resampler = ResamplerSettings(queries=6, layers=1, heads=2, dim=32)
    net = dual_encoder(encoder=encoder, image={"name": "pooled"}, resampler=resampler, **shape)
    objective = Place(net, bank, PlaceSettings(**settings))
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        total(objective(objective.collate(radiographs(bank, 32, rng)[0]))[0]).backward()
        optimizer.step()
    return objective.eval()


@torch.no_grad()
def read(objective: Place, bank: TextBank) -> tuple[float, float]:
    """Of held-out radiographs: how often the two most alike sentences are the true ones (by chance 1/15), and how often
    the query that answers a true sentence looks most at its quarter (1/4)."""
    samples, told = radiographs(bank, 100, np.random.default_rng(9))
    images = torch.stack([torch.from_numpy(one.images[0]) for one in samples])
    observed = objective.model.resampler(objective.model.encode_image(images))
    captions = objective.model.resampler.textual(bank.vectors(bank.ids(SAYINGS)))
    alike = torch.einsum("ke,bqe->bkq", captions, objective.model.resampler.visual(observed.tokens))
    named = alike.amax(2).topk(2, 1).indices.sort(1).values.numpy()
    quarters = torch.nn.functional.avg_pool2d(observed.attention[0], 2).flatten(2)
    looked = [
        int(quarters[radiograph, alike[radiograph, told[radiograph, n]].argmax()].argmax()) == told[radiograph, 2 + n]
        for radiograph in range(len(told))
        for n in range(2)
    ]
    return float((named == np.sort(told[:, :2], 1)).all(1).mean()), float(np.mean(looked))


@pytest.mark.slow
def test_the_right_sentence_finds_the_right_place(bank):
    named, looked = read(trained(bank), bank)
    assert named > 0.9
    assert looked > 0.8


@pytest.mark.slow
def test_sentences_within_a_study_alone_can_be_told_apart_without_looking(bank):
    """Queries that are the same for every radiograph answer them: it takes the contrast across the batch to look."""
    objective = trained(bank, batch_weight=0.0, instance_weight=0.0, correlation_weight=0.0)
    samples, _ = radiographs(bank, 64, np.random.default_rng(5))
    assert losses_of(objective, samples)["sentence"] < 0.1
    assert read(objective, bank)[0] < 0.3
