"""Scans and texts as peers' own code has them: their packages' answers where there are packages, else twins of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ctglip.ct.geometry import canonical
from ctglip.ct.recipe import CtRecipe
from ctglip.ct.standardize import standardize
from ctglip.encoder_cards import encoder_card
from ctglip.evaluation.peers.card import PeerOrgans, PeerText, load_peer, peer_names
from ctglip.evaluation.peers.images import organ_region, organ_window, peer_input, tokens_inside, whole_input
from ctglip.evaluation.peers.text import Projection, TextSide
from ctglip.models.encoders.colipri import AttentionPooler
from ctglip.types import Scan
from tests.evaluation.peer_scans import SENTENCES, STEP, scan
from tests.evaluation.small_peers import ORGANS, PEERS, encoder_of, siglip_head, text_folder
from tests.models.released import float_shapes, made_up, made_up_state

PARITY = Path(__file__).parents[1] / "parity"


def stored(name: str) -> np.ndarray:
    """The made-up scan as a store that was made for a peer holds it."""
    hu, affine = scan()
    view, affine = canonical(hu, affine)
    recipe = CtRecipe.model_validate(encoder_card(name).preprocess()["ct"])
    return standardize(Scan(np.ascontiguousarray(view), affine), None, recipe, ORGANS).image


def own_input(name: str) -> np.ndarray:
    """What a peer sees of the made-up scan, in its released size."""
    encoder = encoder_of(name)
    return peer_input(encoder, stored(name), load_peer(name).size or encoder.ct_input.size)[0, 0].numpy()


def hu_apart(name: str, one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference in HU."""
    expected = encoder_card(name).ct
    assert expected is not None
    low, high = expected.window_hu
    scale = expected.std * (high - low) / (expected.range[1] - expected.range[0])
    return float(np.abs(one - other).max()) * scale


@pytest.mark.parametrize(("name", "tolerance"), [("merlin", 0.51), ("spectre", 0.51), ("colipri", 1.01)])
def test_the_input_is_what_the_package_makes(name: str, tolerance: float) -> None:
    """But for the store's whole HU (TorchIO cuts decimals off, the store rounds)."""
    with np.load(PARITY / "peer_inputs.npz") as golden:
        expected = golden[name]
    found = own_input(name)[:: STEP[0], :: STEP[1], :: STEP[2]]
    assert found.shape == expected.shape
    assert hu_apart(name, found, expected) < tolerance


def interpolated(name: str, clip: tuple[int, int] | None) -> np.ndarray:
    """The scan as PyTorch resamples it to as many voxels as fit, along slices, rows and columns of the file."""
    hu, affine = scan()
    expected = encoder_card(name).ct
    assert expected is not None
    image = hu.astype(np.float32) if clip is None else np.clip(hu, *clip).astype(np.float32)
    size = [int(n * abs(affine[k, k]) / expected.spacing_mm[k]) for k, n in enumerate(hu.shape)]
    return F.interpolate(torch.from_numpy(image)[None, None], size=size, mode="trilinear")[0, 0].numpy()


def middle(image: np.ndarray, size: tuple[int, ...], outside: float) -> np.ndarray:
    """Cut and filled up around the middle, voxel by voxel."""
    found = np.full(size, outside, image.dtype)
    starts = [max((have - want) // 2, 0) for have, want in zip(image.shape, size, strict=True)]
    taken = image[tuple(slice(a, a + want) for a, want in zip(starts, size, strict=True))]
    before = [(want - have) // 2 for have, want in zip(taken.shape, size, strict=True)]
    found[tuple(slice(a, a + have) for a, have in zip(before, taken.shape, strict=True))] = taken
    return found


def test_ct_clips_input_is_its_scripts() -> None:
    image = middle(interpolated("ct_clip", (-1000, 1000)) / 1000, (480, 480, 240), -1)
    assert hu_apart("ct_clip", own_input("ct_clip"), image.transpose(2, 0, 1)) < 0.6


def test_hlips_input_is_its_scripts() -> None:
    image = np.clip((interpolated("hlip", None).transpose(2, 1, 0) + 1150) / 1500, 0, 1)
    image = (middle(image, (112, 336, 336), 0) - 0.449) / 0.226
    assert hu_apart("hlip", own_input("hlip"), image) < 0.6


def test_fvlm_sees_a_window_around_each_organ() -> None:
    """A twin of its region, its window and its tokens, with organs at an end and larger than the window."""
    encoder, settings = encoder_of("fvlm"), PeerOrgans(window=(96, 48, 32), margin=(6, 5, 2), multiple=(32, 16, 16))
    rng = np.random.default_rng(1)
    hu = rng.integers(-1200, 400, (150, 90, 61)).astype(np.int16)
    masks = torch.zeros(2, 61, 90, 150, dtype=torch.bool)
    masks[0, 20:58, 3:80, 30:141], masks[1, 30:41, 60:71, 120:133] = True, True
    whole = whole_input(encoder, hu)
    image = np.clip((hu[::-1, ::-1].transpose(2, 1, 0).astype(np.float32) + 1150) / 1500, 0, 1)
    np.testing.assert_allclose(whole[0, 0].numpy(), image, atol=1e-6)
    region, organs = organ_region(encoder, whole, masks, settings, (160, 64, 32))
    image, expected = image[18:59, 0:84, 24:146], masks.numpy()[:, 18:59, 0:84, 24:146]
    image = middle(image, (41, 84, 160), 0)
    expected = np.stack([middle(one.astype(np.float32), (41, 84, 160), 0) > 0 for one in expected])
    np.testing.assert_allclose(region[0, 0].numpy(), image, atol=1e-6)
    np.testing.assert_array_equal(organs.numpy(), expected)
    for number in range(2):
        cut = twin_window(expected[number], (32, 48, 96))
        window, organ = organ_window(encoder, region, organs[number], settings)
        shape = [-(-side // step) * step for side, step in zip(image[cut].shape, (16, 16, 32), strict=True)]
        assert list(window.shape[2:]) == shape
        ends = tuple(slice(0, side) for side in image[cut].shape)
        np.testing.assert_allclose(window[0, 0].numpy()[ends], image[cut], atol=1e-6)
        assert window.sum().item() == pytest.approx(image[cut].sum(dtype=np.float64), rel=1e-4)
        inside = tokens_inside(organ, [side // step for side, step in zip(shape, (16, 16, 32), strict=True)])
        whole_mask = np.zeros(shape, bool)
        whole_mask[ends] = expected[number][cut]
        blocks = whole_mask.reshape(shape[0] // 16, 16, shape[1] // 16, 16, shape[2] // 32, 32).any((1, 3, 5))
        np.testing.assert_array_equal(inside.numpy(), blocks.ravel())


def twin_window(organ: np.ndarray, least: tuple[int, ...]) -> tuple[slice, ...]:
    """Around the middle of an organ's first and last voxel, as long as it or the least, moved inside."""
    found = []
    for axis, side in enumerate(least):
        places = np.flatnonzero(organ.any(tuple({0, 1, 2} - {axis})))
        first, last, have = int(places[0]), int(places[-1]), organ.shape[axis]
        want = max(side, last - first)
        start = max(0, (first + last) // 2 - want // 2)
        end = min(have, start + want)
        found.append(slice(max(0, end - want) if end - start < want else start, end))
    return tuple(found)


def test_texts_are_read_as_the_packages_read_them(tmp_path: Path) -> None:
    with np.load(PARITY / "peer_texts.npz") as golden:
        expected = dict(golden)
    pooler = AttentionPooler(24, 2)
    pooler.load_state_dict(made_up_state(float_shapes(pooler.state_dict())))
    tokens = made_up("tokens", (2, 7, 24))
    found = torch.cat([pooler(tokens[:1]), pooler(tokens[1:, :4])]).detach().numpy()
    np.testing.assert_allclose(found, expected["attention"], atol=1e-5)
    projection = Projection(siglip_head(48), 48, "a projection")
    np.testing.assert_allclose(projection(made_up("vectors", (3, 48))).numpy(), expected["head"], atol=1e-5)
    state = made_up_state({"weight": (16, 24), "lora_A": (16, 24), "lora_B": (16, 16)})
    merged = state["weight"] + 4.0 * (state["lora_B"] @ state["lora_A"])
    np.testing.assert_allclose((made_up("vectors", (3, 24)) @ merged.T).numpy(), expected["updated"], atol=1e-5)
    assert load_peer("spectre").text.lora_scale == 64 / 16


class Recorder:
    """A tokeniser that notes what it is given."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.seen = inner, []

    def __call__(self, text: str, **options: Any) -> Any:
        self.seen.append(text)
        return self.inner(text, **options)


def test_merlin_takes_words_apart(tmp_path: Path) -> None:
    with np.load(PARITY / "peer_texts.npz") as golden:
        expected = golden["words"].tolist()
    folder = text_folder("spectre", tmp_path)  # any text model with its weights
    state = torch.load(folder / "pytorch_model.bin")
    side = TextSide(PeerText(source=str(folder), words=True), str(folder), lambda _: state, "Merlin")
    side.tokenizer = recorder = Recorder(side.tokenizer)
    side(SENTENCES)
    assert recorder.seen == expected


def test_every_peer_is_tested_and_documented() -> None:
    assert set(peer_names()) == set(PEERS)
    docs = (Path(__file__).parents[2] / "docs" / "peers.md").read_text()
    for name in PEERS:
        card = load_peer(name)
        assert f"| `{name}` | {card.title} |" in docs
        assert card.protocol in docs
        assert card.encoder.name == name
