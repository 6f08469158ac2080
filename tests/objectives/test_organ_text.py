from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ctglip.models.encoders import CNNSettings
from ctglip.models.towers import OrganTextModel, OrganTextModelSettings
from ctglip.objectives.base import join, total
from ctglip.objectives.organ_text import OrganText, OrganTextSettings
from ctglip.objectives.texts import positions
from tests.objectives.conftest import toy_samples

PROMPTS = ["This is the liver.", "A spleen.", "The liver in CT.", "A CT of the spleen."]


def objective(bank, dims: int = 3, **settings) -> OrganText:
    torch.manual_seed(0)
    encoder = CNNSettings(spatial_dims=dims, widths=(8, 16), blocks=(0, 1))
    model = OrganTextModel(
        OrganTextModelSettings(encoder=encoder, in_channels=2, dim=32, embedding_dim=16, text_dim=bank.dim)
    )
    return OrganText(model, bank, bank.ids(PROMPTS), torch.tensor([0, 1, 0, 1]), OrganTextSettings(**settings))


@pytest.mark.parametrize("dims", [2, 3])
def test_eight_pairs_are_learned_by_heart(bank, dims):
    method = objective(bank, dims)
    batch = method.collate(toy_samples(bank, dims))
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for _ in range(80):
        losses, _ = method(batch)
        optimizer.zero_grad()
        total(losses).backward()
        optimizer.step()
    losses, report = method(batch)
    assert total(losses).item() < 0.05
    assert report["anatomy_accuracy"] == report["text_accuracy"] == 1
    assert report["positive_similarity"] > report["negative_similarity"] + 0.5


def test_losses_are_what_the_definition_says(bank):
    method = objective(bank, anatomy_weight=2.0, diagnosis_weight=3.0, temperature=0.5)
    samples = toy_samples(bank, 3, count=4)
    samples[2] = replace(samples[2], text_id=samples[0].text_id, text_key=samples[0].text_key)
    batch = method.collate(samples)
    losses, report = method(batch)
    model = method.model
    feature = model.organ_features(batch.image, batch.mask, batch.size)
    prompts = model.text(bank.vectors(bank.ids(PROMPTS)))
    classes = F.normalize(torch.stack([prompts[0] + prompts[2], prompts[1] + prompts[3]]), dim=1)
    anatomy = F.cross_entropy(2 * model.anatomy(feature) @ classes.T, torch.tensor([0, 1, 0, 1]))
    torch.testing.assert_close(losses["anatomy"], 2 * anatomy)

    image, text = model.diagnosis(feature), model.text(bank.vectors(batch.text_id))
    target = torch.eye(4)
    target[0, 2] = target[2, 0] = 1
    target /= target.sum(1, keepdim=True)
    logits = 2 * image @ text.T
    rows = []
    for i, sample in enumerate(samples):
        ids = torch.tensor([j for j in sample.negative_ids.tolist() if j >= 0])
        seen = torch.cat([logits[i], 2 * model.text(bank.vectors(ids)) @ image[i]])
        rows.append(seen.logsumexp(0) - (target[i] * logits[i]).sum())
    back = -(target * logits.T.log_softmax(1)).sum(1)
    torch.testing.assert_close(losses["diagnosis"], 3 * (torch.stack(rows).mean() + back.mean()) / 2)
    assert report["temperature"] == pytest.approx(0.5)


def test_micro_batches_joined_are_the_batch(bank):
    method = objective(bank).eval()
    samples = toy_samples(bank, 3)
    parts = [method.encode(method.collate(samples[i : i + 3])) for i in (0, 3, 6)]
    joined, _ = method.compute(join(parts))
    whole, _ = method(method.collate(samples))
    for name, loss in whole.items():
        torch.testing.assert_close(joined[name], loss)


def test_collate_takes_every_text_once_and_no_negatives_is_fine(bank):
    method = objective(bank)
    samples = toy_samples(bank, 3)
    batch = method.collate(samples)
    wanted = {s.text_id for s in samples} | {int(i) for s in samples for i in s.negative_ids if i >= 0}
    assert batch.pool_ids.tolist() == sorted(wanted)
    assert len(batch) == 8
    none = [replace(sample, negative_ids=np.zeros(0, np.int64)) for sample in samples]
    losses, _ = method(method.collate(none))
    assert torch.isfinite(total(losses))
    all_missing = [replace(sample, negative_ids=np.full(2, -1)) for sample in samples]
    torch.testing.assert_close(total(method(method.collate(all_missing))[0]), total(losses))


def test_temperature_is_learned_or_fixed(bank):
    for learned in (True, False):
        method = objective(bank, learn_temperature=learned)
        total(method(method.collate(toy_samples(bank, 3)))[0]).backward()
        gradient = method.diagnosis.scale.log_scale.grad
        assert (gradient is not None and gradient.abs() > 0) if learned else gradient is None


def test_positions_finds_ids_in_any_order():
    pool = torch.tensor([7, 3, 9, 3])
    found = positions(torch.tensor([[9, -1], [3, 7]]), pool)
    assert found[0, 1] == -1
    assert torch.equal(pool[found.clamp(min=0)][[0, 1, 1], [0, 0, 1]], torch.tensor([9, 3, 7]))
