"""Encoders that others released: how they look at a scan, what preprocessing must make, and bad files."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from ctglip.encoder_cards import encoder_card
from ctglip.errors import ConfigError, ModelError
from ctglip.models.encoders import RELEASED, RELEASED_CXR, build_encoder
from ctglip.models.encoders.probe import check_probe, encoder_probe
from ctglip.models.encoders.released import axes_of, channel_of, in_range
from tests.models.bad_files import Runs
from tests.models.released import SIDES
from tests.models.test_released import released_state, small


def test_orientations_are_those_of_nibabel() -> None:
    import nibabel as nib

    image = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    encoder = small("ct_fm")
    for letters in ("RAS", "SPL", "LPS", "SAR", "IPR", "PSL"):
        here, there = (nib.orientations.axcodes2ornt(one) for one in ("RAS", letters))
        turn = nib.orientations.ornt_transform(here, there)
        expected = nib.orientations.apply_orientation(image, turn)
        order, flips = axes_of(letters)
        assert np.array_equal(np.flip(image.transpose(order), flips), expected), letters
    x = torch.randn(1, 2, 2, 3, 4)
    assert torch.equal(encoder.restored(encoder.turned_image(x)), x)
    with pytest.raises(ValueError, match="three axes"):
        axes_of("RLS")


def test_ranges_windows_and_channels() -> None:
    wanted = encoder_card("ct_fm").ct
    assert wanted is not None
    shown = torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 3, 1, 1)
    assert in_range(shown, wanted).flatten().tolist() == [0, 0.5, 1]
    scaled = wanted.model_copy(update={"range": (-1024.0, 2048.0), "mean": 512.0, "std": 2.0})
    assert in_range(shown, scaled).flatten().tolist() == [-768, 0, 768]
    z = in_range(torch.randn(2, 1, 4, 4, 4), wanted.model_copy(update={"per_image": "z_score"}))
    torch.testing.assert_close(z.flatten(1).mean(1), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.flatten(1).std(1), torch.ones(2))
    flat = in_range(torch.zeros(1, 1, 2, 2, 2), wanted.model_copy(update={"per_image": "min_max"}))
    assert torch.equal(flat, torch.zeros_like(flat))
    assert channel_of("ct_fm", [(-160.0, 240.0), (-1024.0, 2048.0)]) == 1
    with pytest.raises(ValueError, match="sees HU -1024 to 2048, which no window shows"):
        channel_of("ct_fm", [(-160.0, 240.0)])
    second = small("ct_fm", channel=1)
    both = torch.randn(1, 2, *SIDES["ct_fm"])
    assert torch.equal(second(both).pooled, small("ct_fm")(both[:, 1:]).pooled)
    with pytest.raises(ModelError, match="channel 3 of images with 1 channels"):
        build_encoder(second.settings.model_copy(update={"channel": 3}), 1)


def test_cards_say_what_preprocessing_must_make() -> None:
    assert encoder_card("ct_fm").preprocess() == {"ct": {"spacing_mm": [1.0, 1.0, 3.0], "hu_clip": [-1024, 3071]}}
    with pytest.raises(ConfigError, match=r"no released encoder 'ctfm'. Known: .*ct_fm"):
        encoder_card("ctfm")


def start(path: str | Path, **changes: Any) -> float:
    return small("ct_fm", weights=str(path), **changes).load_pretrained()


def test_files_of_other_models_broken_and_harmful_ones_end_with_one_line(tmp_path: Path) -> None:
    state = released_state("ct_fm")
    path = tmp_path / "weights.pth"
    torch.save({"cls_token": torch.zeros(1, 1, 8), "blocks.0.norm1.weight": torch.zeros(8)}, path)
    with pytest.raises(ModelError, match=r"None of the weights .* Missing \(\d+\): conv_init.*Unexpected \(2\): cls"):
        start(path)
    torch.save(state | {"layers.3.blocks.0.conv1.weight": torch.zeros(2)}, path)
    with pytest.raises(ModelError, match=r"no place for \(1\): layers\.3\.blocks\.0\.conv1\.weight"):
        start(path)
    torch.save(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="cannot be read") as broken:
        start(path)
    assert "\n" not in str(broken.value)
    torch.save({"state_dict": state, "hook": Runs(tmp_path / "ran")}, path)
    with pytest.raises(ModelError, match=r"more than tensors and plain values \(\S*open\).*safetensors") as refused:
        start(path)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "ran").exists()


def test_harmless_values_beside_the_weights_are_read(tmp_path: Path) -> None:
    beside = {"args": Namespace(lr=np.float64(1e-3), out=Path("a/b")), "seen": np.arange(3), "best": np.float32(0.5)}
    torch.save({"state_dict": released_state("ct_fm"), **beside}, tmp_path / "weights.pth")
    assert start(tmp_path / "weights.pth") == 1


def test_a_part_of_the_weights_is_named_or_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = released_state("ct_fm")
    gone = "layers.0.blocks.0.norm1.weight"
    torch.save({name: value for name, value in state.items() if name != gone}, tmp_path / "weights.pth")
    with pytest.raises(ModelError, match=rf"Missing \(1\): {gone}"):
        start(tmp_path / "weights.pth")
    assert 0.9 < start(tmp_path / "weights.pth", partial=True) < 1
    assert gone in caplog.text
    torch.save({name: value for name, value in state.items() if "layers.2" not in name}, tmp_path / "weights.pth")
    with pytest.raises(ModelError, match="Not all weights"):
        start(tmp_path / "weights.pth", partial=True)


def test_hub_names_are_read_from_this_machine_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    repository = encoder_card("ct_fm").hub
    assert repository is not None
    with pytest.raises(ModelError, match=rf"in the hub's cache .* hf download {repository} model\.safetensors"):
        start(repository)
    folder = tmp_path / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    state = {name: value.contiguous() for name, value in released_state("ct_fm").items()}
    save_file(state, folder / "snapshots" / "abc" / "model.safetensors")
    assert start(repository) == 1
    assert start(folder / "snapshots" / "abc") == 1
    with pytest.raises(ModelError, match=r"has no other\.pth"):
        start(f"{repository}/other.pth")
    with pytest.raises(ModelError, match=r"holds none of model\.safetensors"):
        start(tmp_path)
    with pytest.raises(ModelError, match=r"cannot be read: .*No such file"):
        start(tmp_path / "none.pth")


def test_an_encoder_that_answers_otherwise_is_found_out() -> None:
    encoder = small("ct_fm")
    stored = json.loads(json.dumps(encoder_probe(encoder, 1)))
    check_probe(encoder, 1, stored, "here")
    with torch.no_grad():
        encoder.network.layers[0]["blocks"][0].norm1.bias += 0.05  # pyright: ignore
    with pytest.raises(ModelError, match="gives another answer than when it was saved"):
        check_probe(encoder, 1, stored, "here")
    rounded = {**stored, "values": [value * (1 + 1e-6) for value in stored["values"]]}
    check_probe(small("ct_fm"), 1, rounded, "here")
    encoder.network.layers[0]["blocks"][0].norm1.bias.data.fill_(float("nan"))  # pyright: ignore
    assert encoder_probe(encoder, 1) == {}


def test_the_docs_list_every_card() -> None:
    page = (Path(__file__).parents[2] / "docs" / "weights.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert rows == [card_row(name) for name in (*RELEASED, *RELEASED_CXR)]


def card_row(name: str) -> str:
    """A card as a row of the table in docs/weights.md."""
    card = encoder_card(name)
    wanted = card.ct
    if wanted is None:
        assert card.cxr is not None
        numbers = (
            " ".join(f"{value:g}" for value in dict.fromkeys(values)) for values in (card.cxr.mean, card.cxr.std)
        )
        seen = f"{card.cxr.size} of {card.cxr.resize or card.cxr.size}, {card.cxr.fit}; {'; '.join(numbers)}"
        return f"| `{name}` | {card.licence} | {card.where or f'hub `{card.hub}`'} | {seen} | {card.compared} |"
    spacing, size = (" × ".join(f"{edge:g}" for edge in edges) for edges in (wanted.spacing_mm, wanted.size))
    seen = f"{spacing}; {wanted.window_hu[0]:g} to {wanted.window_hu[1]:g}; {size}"
    return f"| `{name}` | {card.licence} | {card.where or f'hub `{card.hub}`'} | {seen} | {card.compared} |"
