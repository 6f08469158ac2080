"""What the parts are for: size alone can be learned, and a text encoder can be trained along."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from ctglip.data.samples import OrganSample
from ctglip.features.text_bank import TextBank
from ctglip.models.region_readers import Regions
from ctglip.models.text import TextEncoderSettings, load_text_encoder
from ctglip.objectives.base import total
from ctglip.objectives.text_contrast import OrganText
from tests.models.conftest import write_tiny_bert
from tests.objectives.toys import model, noise_hu, organ_sample, organ_samples, organ_text


def sized(bank: TextBank, volumes: np.ndarray, rng: np.random.Generator) -> list[OrganSample]:
    """Crops that look alike, whatever the organ's size; the text says whether it is large."""
    small, large = bank.ids(["normal size", "enlarged"]).tolist()
    samples = []
    for volume in volumes:
        text = large if volume > 0 else small
        size = np.array([volume / 3, volume / 3, volume / 3, volume], np.float32)
        samples.append(organ_sample(noise_hu(rng), size, 0, 0, text, np.zeros(0, np.int64)))
    return samples


def test_an_abnormality_of_size_alone_is_learned(bank):
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=64), rng.normal(size=600)
    found = {}
    for sizes in (True, False):
        plain = organ_text(bank, 3)
        net = model(bank, 3, sizes=sizes)
        method = OrganText(net, bank, bank.ids(["a", "b"]), torch.tensor([0, 1]), plain.settings)
        batch = method.collate(sized(bank, train, rng))
        optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
        for _ in range(40):
            optimizer.zero_grad()
            total(method(batch)[0]).backward()
            optimizer.step()
        with torch.no_grad():
            held_out = method.collate(sized(bank, test, rng))
            features = net(held_out.image, Regions(mask=held_out.mask, size=held_out.size))  # pyright: ignore
            image = net.diagnosis(features)
            small, large = net.text(bank.vectors(bank.ids(["normal size", "enlarged"])))
            found[sizes] = roc_auc_score(test > 0, (image @ (large - small)).numpy())
    assert found[True] > 0.95
    assert found[False] < 0.65, "crops of noise tell nothing; its standard deviation is 0.024"


def test_a_text_encoder_is_trained_along(tmp_path):
    folder = write_tiny_bert(tmp_path / "bert")
    encoder = load_text_encoder(TextEncoderSettings(name=str(folder), max_length=16, train={"name": "lora", "rank": 2}))
    bank = TextBank(tmp_path / "bank", encoder)
    texts = [
        "liver normal",
        "liver cyst",
        "spleen normal",
        "spleen large",
        "the liver",
        "the spleen",
        "a liver",
        "large",
    ]
    ids = bank.ids(texts).tolist()
    samples = [replace(s, text_id=i, text_key=i) for s, i in zip(organ_samples(bank), ids, strict=True)]
    net = model(bank, 3)
    method = OrganText(net, bank, bank.ids(["is liver", "is spleen"]), torch.tensor([0, 1]))
    batch = method.collate(samples)
    assert not batch.pool.is_floating_point()
    first, before = total(method(batch)[0]).item(), encoder.hash
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(20):
        optimizer.zero_grad()
        total(method(batch)[0]).backward()
        optimizer.step()
    assert total(method(batch)[0]).item() < first / 2
    assert encoder.hash != before
    trained = [name for name, p in method.named_parameters() if p.requires_grad and "texts.encoder" in name]
    assert all(name.endswith((".up", ".down")) for name in trained)
    assert len(trained) == 4
