"""ASG: the published losses in value and gradient, what regions and tags do to them, and what they teach."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctglip.data.samples import StudySample
from ctglip.features.text_bank import TextBank
from ctglip.models.pooling import box_weights
from ctglip.models.region_readers import Regions
from ctglip.objectives.asg import ASG, distinct, mean_of_texts
from ctglip.objectives.base import Features, total
from ctglip.training.gradcache import cached_backward, micro_batches
from tests.objectives.toys import TOKEN_BOX, asg, report_samples

GOLDEN = Path(__file__).resolve().parents[1] / "parity" / "asg.npz"
PUBLISHED = {"same_sentences": "negative", "gather": False}


class Unit(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)


def bare(bank: TextBank, **objective: Any) -> ASG:
    """An objective whose heads do nothing, in double precision."""
    found = asg(
        bank, 2, regions={**TOKEN_BOX, "box_pooling": "roi_align"}, objective={**PUBLISHED, **objective}
    ).double()
    for module in (found.model.image_head, found.model.region_reader):
        module.head = Unit()
    found.model.text_head = Unit()
    return found


def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN) as arrays:
        return {name.removeprefix("asg/"): torch.as_tensor(arrays[name]).clone() for name in arrays.files}


def features_of(numbers: dict[str, Tensor]) -> Features:
    """The published inputs as features; each word is a sentence."""
    counts, words = numbers["n_regions"], numbers["sent_index"]
    kept = torch.arange(words.shape[1])[None] < counts[:, None]
    row = torch.arange(len(counts)).repeat_interleave(counts)
    xyxy, chosen = numbers["regions_xyxy_feature_coords"][kept], words[kept]
    radiographs, each = numbers["word"].shape[:2]
    return {
        "image": numbers["img"],
        "row": torch.arange(radiographs),
        "report": torch.arange(radiographs),
        "tags": numbers["labels"],
        "tag_logits": numbers["tag_logits"].double(),
        "pool": torch.cat([numbers["report"], numbers["word"].flatten(0, 1)]),
        "pool_ids": torch.arange(radiographs * (each + 1)),
        "level": numbers["patch"].transpose(1, 2).unflatten(2, (14, 14)),
        "weights": box_weights(xyxy[:, [1, 3, 0, 2]], (14, 14), "roi_align"),
        "region_row": row,
        "region_text": torch.arange(len(row)),
        "region_sentences": torch.where(chosen >= 0, radiographs + row[:, None] * each + chosen, -1),
    }


def written_out(numbers: dict[str, Tensor]) -> dict[str, Tensor]:
    """The formulas, one image and one region after the other."""
    from torchvision.ops import roi_align

    tau, own = 0.07, torch.arange(5)
    logits = F.normalize(numbers["img"], dim=1) @ F.normalize(numbers["report"], dim=1).T / tau
    hard = F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)
    unit = F.normalize((numbers["labels"] == 1).double(), dim=1)
    target = 0.8 * torch.eye(5).double() + 0.2 * unit @ unit.T + 1e-6
    target = target / target.sum(1, keepdim=True)
    soft = torch.zeros(()).double()
    for z in (logits, logits.T):
        p = z.softmax(1)
        there, back = (target * (target / p).log()).sum(1), (p * (p / target).log()).sum(1)
        soft = soft + (there + back).mean() / 4
    local, regions = torch.zeros(()).double(), 0
    for radiograph, count in enumerate(numbers["n_regions"].tolist()):
        if not count:
            continue
        patches = F.normalize(numbers["patch"][radiograph], dim=1).T.unflatten(1, (14, 14))[None]
        boxes = numbers["regions_xyxy_feature_coords"][radiograph, :count]
        found = roi_align(patches, [boxes], 1, sampling_ratio=-1, aligned=False).flatten(1)
        words = F.normalize(numbers["word"][radiograph], dim=1)
        texts = [words[index[index >= 0]].mean(0) for index in numbers["sent_index"][radiograph, :count]]
        q = found @ torch.stack(texts).T / tau
        at = torch.arange(count)
        local = local + F.cross_entropy(q, at, reduction="sum") + F.cross_entropy(q.T, at, reduction="sum")
        regions += count
    tags = (numbers["labels"] == 1).double()
    recognised = F.binary_cross_entropy_with_logits(numbers["tag_logits"].double(), tags)
    return {
        "image_report": hard,
        "soft_labels": soft,
        "region_sentence": local / regions,
        "recognition": 5 * recognised,
    }


@pytest.fixture
def published(bank: TextBank) -> tuple[ASG, dict[str, Tensor], Features]:
    numbers = golden()
    return bare(bank), numbers, features_of(numbers)


def test_the_published_numbers(published):
    objective, numbers, features = published
    losses, report = objective.compute(features)
    for name, golden_name in (("image_report", "ira"), ("region_sentence", "arsa"), ("soft_labels", "erl_soft")):
        assert losses[name].item() == pytest.approx(numbers[golden_name].item(), abs=1e-7)
    assert losses["recognition"].item() == pytest.approx(5 * numbers["irl_bce"].item(), abs=1e-5)
    assert total(losses).item() == pytest.approx(numbers["total"].item(), abs=2e-5)
    assert report["temperature"] == pytest.approx(0.07)


@pytest.mark.parametrize("name", ["image_report", "region_sentence", "recognition", "soft_labels"])
def test_gradients_are_those_of_the_formulas(bank, name):
    inputs = ("img", "report", "patch", "word", "tag_logits")
    gradients = []
    for terms in (lambda n: bare(bank).compute(features_of(n))[0], written_out):
        numbers = golden()
        leaves = [numbers[key].requires_grad_() for key in inputs]
        found = torch.autograd.grad(terms(numbers)[name], leaves, allow_unused=True)
        gradients.append([torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)])
    assert any(bool((x != 0).any()) for x in gradients[0])
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-6)


REGION = ("weights", "region_row", "region_text", "region_sentences")


def local(objective: ASG, features: Features, **changes: Tensor) -> float:
    return objective.compute({**features, **changes})[0]["region_sentence"].item()


def test_the_order_of_regions_does_not_matter(published):
    objective, _, features = published
    order = torch.randperm(len(features["region_row"]), generator=torch.Generator().manual_seed(0))
    shuffled = {name: features[name][order] for name in REGION}
    assert local(objective, features, **shuffled) == pytest.approx(local(objective, features))


@pytest.mark.parametrize("missing", ["region_text", "region_sentences"])
def test_regions_without_sentences_change_nothing(published, missing):
    objective, _, features = published
    extra = {name: torch.cat([features[name], features[name][:3].flip(0)]) for name in REGION}
    assert local(objective, features, **extra) != pytest.approx(local(objective, features))
    extra[missing][-3:] = -1
    assert local(objective, features, **extra) == pytest.approx(local(objective, features))


def test_one_region_teaches_nothing_and_counts(published):
    objective, _, features = published
    mine = features["region_row"] == 3  # an image of two regions
    two = {name: features[name][mine] for name in REGION}
    alone = local(objective, features, **two)
    first = (features["region_row"] == 0).nonzero()[:1, 0]
    three = {name: torch.cat([two[name], features[name][first]]) for name in REGION}
    assert local(objective, features, **three) == pytest.approx(alone * 2 / 3)
    one = {name: features[name][first] for name in REGION}
    assert local(objective, features, **one) == pytest.approx(0)


def test_no_region_is_zero_with_a_gradient(published):
    objective, _, features = published
    features["level"] = features["level"].clone().requires_grad_()
    none = {name: features[name][:0] for name in REGION}
    loss = objective.compute({**features, **none})[0]["region_sentence"]
    loss.backward()
    assert loss.item() == 0
    assert features["level"].grad is not None
    assert not features["level"].grad.any()


def test_regions_with_the_same_sentences(bank, published):
    """Three regions of one image, the first two with one sentence."""
    _, _, features = published
    rows = (features["region_row"] == 0).nonzero()[:3, 0]
    three = {name: features[name][rows] for name in REGION}
    for name in ("region_text", "region_sentences"):
        three[name] = three[name][[0, 0, 2]]
    kinds = ("negative", "positive", "ignored")
    loss = {kind: local(bare(bank, same_sentences=kind), features, **three) for kind in kinds}
    objective = bare(bank)
    texts = F.normalize(features["pool"], dim=1)
    image = objective._regions({**features, **three})
    logits = image @ mean_of_texts(texts, three["region_sentences"]).T / 0.07
    share = torch.tensor([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]).double()
    expected = sum(-(share * z.log_softmax(1)).sum(1).mean() for z in (logits, logits.T))
    assert loss["positive"] == pytest.approx(float(expected))
    hidden = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0]]).bool()
    own = torch.arange(3)
    left = (z.masked_fill(hidden, -math.inf) for z in (logits, logits.T))
    assert loss["ignored"] == pytest.approx(sum(F.cross_entropy(z, own).item() for z in left))
    assert loss["ignored"] < loss["negative"]
    swapped = {**three, "weights": three["weights"][[1, 0, 2]]}
    assert local(bare(bank, same_sentences="positive"), features, **swapped) == pytest.approx(loss["positive"])


def test_the_same_sentence_of_another_image_is_no_positive(bank, published):
    _, _, features = published
    objective = bare(bank, same_sentences="positive")
    same = features["region_text"].clone()
    same[features["region_row"] == 3] = features["region_text"][:2]
    assert local(objective, features, region_text=same) == pytest.approx(local(objective, features))


def test_images_without_a_report_are_left_out(published):
    objective, _, features = published
    four = {name: features[name][:4] for name in ("image", "row", "report", "tags", "tag_logits")}
    regions = {name: features[name][features["region_row"] < 4] for name in REGION}
    expected, _ = objective.compute({**features, **four, **regions, "level": features["level"][:4]})
    report = features["report"].clone()
    report[4] = -1
    sentences = features["region_sentences"].masked_fill(features["region_row"][:, None] == 4, -1)
    losses, _ = objective.compute({**features, "report": report, "region_sentences": sentences})
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(expected[name].item()), name


def test_tags_that_are_not_spoken_of(bank, published):
    _, numbers, features = published
    strict = bare(bank, unsaid="ignored", recognition=1.0)
    said = numbers["labels"] >= 0
    wanted = (numbers["labels"] == 1).double()[said]
    expected = F.binary_cross_entropy_with_logits(numbers["tag_logits"].double()[said], wanted)
    assert strict.compute(features)[0]["recognition"].item() == pytest.approx(expected.item())


def test_weights_and_terms(bank, published):
    _, _, features = published
    plain, _ = bare(bank).compute(features)
    weights = {"image_report": 0.0, "region_sentence": 0.5, "recognition": 0.0, "soft_labels": 2.0}
    found, _ = bare(bank, **weights).compute(features)
    assert found.keys() == {"region_sentence", "soft_labels"}
    assert found["region_sentence"].item() == pytest.approx(plain["region_sentence"].item() / 2)
    assert found["soft_labels"].item() == pytest.approx(plain["soft_labels"].item() * 2)


def test_each_text_is_seen_once_whatever_brought_it():
    pool = torch.randn(3, 4, requires_grad=True)
    ids, rows = distinct(torch.tensor([5, 2, 9, 2, 5]), pool[[1, 0, 2, 0, 1]])
    assert ids.tolist() == [2, 5, 9]
    torch.testing.assert_close(rows, pool)


@pytest.mark.parametrize("regions", [TOKEN_BOX, {"name": "mask"}, {"name": "query"}])
def test_gradcache_is_the_plain_step(bank, regions):
    """In training, batch norm in the heads included."""
    objective = asg(bank, 2, regions=regions)
    batch = objective.collate(report_samples(bank, 2, 7))
    total(objective(batch)[0]).backward()
    expected = {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}
    objective.zero_grad()
    losses, _ = cached_backward(objective, micro_batches(batch, 3))
    assert losses.keys() == {"image_report", "region_sentence", "recognition", "soft_labels"}
    for name, p in objective.named_parameters():
        if name in expected:
            assert p.grad is not None
            torch.testing.assert_close(p.grad, expected[name], atol=1e-5, rtol=1e-3)


def test_regions_without_a_query_are_left_out(bank):
    samples = report_samples(bank, 2, 4)
    objective = asg(bank, 2, regions={"name": "query"}, organs=3).eval()
    objective.queries = torch.tensor([2, -1])
    features = objective.encode(objective.collate(samples))
    assert (features["region_text"] >= 0).tolist() == [True, False] * 3
    assert objective.compute(features)[0]["region_sentence"].item() == 0  # one region is left of each radiograph
    objective.queries = torch.tensor([2, 0])
    both = objective.encode(objective.collate(samples))
    torch.testing.assert_close(both["region"][::2], features["region"][::2])
    assert objective.compute(both)[0]["region_sentence"].item() > 0


def test_tag_names_are_embedded_once_and_frozen(bank):
    objective = asg(bank, 2)
    names = ["edema", "mass", "tube", "line"]
    torch.testing.assert_close(objective.model.tag_decoder.embeddings, bank.vectors(bank.ids(names)))
    assert "model.tag_decoder.embeddings" not in dict(objective.named_parameters())


def halves(bank: TextBank, count: int, rng: np.random.Generator) -> tuple[list[StudySample], np.ndarray]:
    """Radiographs whose halves are bright or dark, each on its own; a report that says how many are bright, and not
    which."""
    bright, dark, *reports = bank.ids(["bright", "dark", "none", "one", "both"]).tolist()
    template = report_samples(bank, 2, 2, views=1)[0]
    state = rng.integers(0, 2, (count, 2))
    radiographs = []
    for pair in state:
        image = rng.standard_normal((1, 2, 16, 16))
        image[..., :8, :] += pair[0]
        image[..., 8:, :] += pair[1]
        said = np.where(pair, bright, dark)
        radiographs.append(
            replace(
                template,
                images=image.astype(np.float32),
                text_id=said,
                report=reports[pair.sum()],
                sentences={0: int(said[0]), 1: int(said[1])},
                organ_sentences=((0,), (1,)),
            )
        )
    return radiographs, state


@pytest.mark.parametrize(("weight", "reached"), [(1.0, (0.9, 1.0)), (0.0, (0.0, 0.8))])
def test_regions_are_told_apart_by_their_sentences(bank, weight, reached):
    """Which half of a radiograph is the bright one? The contrast is inside of one radiograph, so this is what it
    teaches."""
    rng = np.random.default_rng(0)
    train, _ = halves(bank, 48, rng)
    test, state = halves(bank, 100, rng)
    only = {"region_sentence": weight, "soft_labels": 0.0, "recognition": 0.0}
    objective = asg(bank, 2, regions=TOKEN_BOX, tags=None, objective=only)
    batch = objective.collate(train)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        total(objective(batch)[0]).backward()
        optimizer.step()
    net = objective.model.eval()
    held = objective.collate(test)
    with torch.no_grad():
        regions = Regions(organ_id=held.region_id, study_index=held.region_study, boxes=held.boxes[:, 0])
        image = net.diagnosis(net(held.image, regions))
        bright, dark = net.text(bank.vectors(bank.ids(["bright", "dark"])))
    brighter = (image @ (bright - dark)).view(-1, 2).diff()[:, 0].numpy()
    apart = np.diff(state)[:, 0]
    right = (brighter > 0)[apart != 0] == (apart > 0)[apart != 0]
    assert reached[0] <= right.mean() <= reached[1]
