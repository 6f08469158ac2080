from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ctglip.losses.contrastive import alignment
from ctglip.models.region_readers import Regions
from ctglip.objectives.base import total
from ctglip.objectives.contrast import KeyFindings
from ctglip.objectives.text_contrast import OrganText, OrganTextSettings
from ctglip.objectives.texts import positions
from tests.objectives.toys import PROMPTS, model, organ_samples, organ_text


def test_losses_are_what_the_definition_says(bank):
    method = organ_text(bank, 3, anatomy_weight=2.0, diagnosis_weight=3.0, temperature=0.5)
    samples = organ_samples(bank, count=4)
    samples[2] = replace(samples[2], text_id=samples[0].text_id, text_key=samples[0].text_key)
    batch = method.collate(samples)
    losses, report = method(batch)
    net = method.model
    feature = net(batch.image, Regions(mask=batch.mask, size=batch.size))
    prompts = net.text(bank.vectors(bank.ids(PROMPTS)))
    classes = F.normalize(torch.stack([prompts[0] + prompts[2], prompts[1] + prompts[3]]), dim=1)
    anatomy = F.cross_entropy(2 * net.anatomy(feature) @ classes.T, torch.tensor([0, 1, 0, 1]))
    torch.testing.assert_close(losses["anatomy"], 2 * anatomy)

    image, text = net.diagnosis(feature), net.text(bank.vectors(batch.text_id))
    target = torch.eye(4)
    target[0, 2] = target[2, 0] = 1
    target /= target.sum(1, keepdim=True)
    logits = 2 * image @ text.T
    rows = []
    for i, sample in enumerate(samples):
        ids = torch.tensor([j for j in sample.negative_ids.tolist() if j >= 0])
        seen = torch.cat([logits[i], 2 * net.text(bank.vectors(ids)) @ image[i]])
        rows.append(seen.logsumexp(0) - (target[i] * logits[i]).sum())
    back = -(target * logits.T.log_softmax(1)).sum(1)
    torch.testing.assert_close(losses["diagnosis"], 3 * (torch.stack(rows).mean() + back.mean()) / 2)
    assert report["temperature"] == pytest.approx(0.5)


def test_collate_takes_every_text_once_and_no_negatives_is_fine(bank):
    method = organ_text(bank, 3)
    samples = organ_samples(bank)
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
        method = organ_text(bank, 3, learn_temperature=learned)
        total(method(method.collate(organ_samples(bank)))[0]).backward()
        gradient = method.contrast.scale.log_scale.grad
        assert (gradient is not None and gradient.abs() > 0) if learned else gradient is None


def test_positions_finds_ids_in_any_order():
    pool = torch.tensor([7, 3, 9, 3])
    found = positions(torch.tensor([[9, -1], [3, 7]]), pool)
    assert found[0, 1] == -1
    assert torch.equal(pool[found.clamp(min=0)][[0, 1, 1], [0, 0, 1]], torch.tensor([9, 3, 7]))


def test_negatives_can_be_taken_away(bank):
    batch = organ_text(bank, 3).collate(organ_samples(bank))
    found = {}
    for negatives in ("none", "batch", "same_organ"):
        method = organ_text(bank, 3, negatives=negatives)
        found[negatives] = method(batch)[0]["diagnosis"].item()
    assert found["batch"] < found["same_organ"]
    organ, text = method.model(batch.image, Regions(mask=batch.mask, size=batch.size)), bank.vectors(batch.text_id)
    expected = alignment(method.model.diagnosis(organ), method.model.text(text))
    assert found["none"] == pytest.approx(expected.item(), abs=1e-6)


def test_texts_that_may_be_true_are_left_out_and_counted(bank):
    samples = [replace(sample, text_key=key) for key, sample in enumerate(organ_samples(bank, count=4))]
    table = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])  # lesion, cyst (a lesion), stone, normal
    related = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 1]]) > 0
    owner, settings = torch.tensor([0, 1, 0, 1]), OrganTextSettings(targets="hierarchy")
    method = OrganText(model(bank, 3), bank, bank.ids(PROMPTS), owner, settings, KeyFindings(table, related))
    losses, report = method(method.collate(samples))
    assert report["not_negative_share"] == pytest.approx(2 / 12)
    plain = organ_text(bank, 3)
    assert losses["diagnosis"] < plain(plain.collate(samples))[0]["diagnosis"]
    with pytest.raises(ValueError, match="findings"):
        organ_text(bank, 3, targets="hierarchy")


def test_organs_of_which_nothing_is_said_teach_anatomy_alone(bank):
    samples = organ_samples(bank)
    silent = [replace(s, text_id=-1, text_key=-1) if i % 2 else s for i, s in enumerate(samples)]
    method = organ_text(bank, 3)
    mixed, _ = method(method.collate(silent))
    said, _ = method(method.collate(samples[::2]))
    torch.testing.assert_close(mixed["diagnosis"], said["diagnosis"])
    none, _ = method(method.collate([replace(s, text_id=-1) for s in samples]))
    assert none["diagnosis"].item() == 0
    total(none).backward()
