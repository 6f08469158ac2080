"""Encoders of chest radiographs that others released: names, answers beside packages', grey values, bad files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ctglip.config import load_settings
from ctglip.cxr.picture import Radiograph
from ctglip.cxr.recipe import CxrRecipe
from ctglip.cxr.standardize import standardize_radiograph
from ctglip.data.cxr import CxrInputSettings, cxr_input
from ctglip.encoder_cards import encoder_card, encoder_names
from ctglip.errors import ConfigError, ModelError
from ctglip.models.encoders import ENCODERS, RELEASED_CXR, build_encoder
from ctglip.models.encoders.probe import check_probe, encoder_probe, probe_image
from ctglip.models.encoders.released_cxr import ReleasedCxrEncoder, ReleasedViT
from ctglip.training.pretrain_config import PretrainConfig
from tests.models.bad_files import check_bad_files
from tests.models.released import float_shapes, heads, load_golden, made_up_state, size_of, under

VIT = {"image_size": 32, "patch": 8, "dim": 24, "depth": 3, "heads": 4}
RESNET = {"blocks": (1, 1, 1, 1)}
SIZES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("rad_dino", "mae", "mrm", "ecamp", "mgca"), VIT),
    **dict.fromkeys(("mgca_resnet50", "biovil", "biovil_t"), RESNET),
}
FULL = {
    "rad_dino": (174, 86.58), **dict.fromkeys(("mae", "mrm", "ecamp", "mgca"), (150, 85.80)),
    "mgca_resnet50": (318, 23.51), "biovil": (318, 23.51), "biovil_t": (320, 24.03),
}  # fmt: skip
"""Entries of the released state dict, and its millions of parameters."""
DECODER = (
    "decoder_embed.weight",
    "decoder_blocks.0.norm1.weight",
    "decoder_pred.bias",
    "decoder_pos_embed",
    "mask_token",
)
BERT = ("bert_encoder.model.bert.encoder.layer.0.output.dense.weight", "bert_mlp.weight")
MGCA = ("img_encoder_q.global_embed.head.0.weight", "img_encoder_q.local_embed.head.0.weight", "prototype_layer.weight",
        "text_encoder_q.model.encoder.layer.0.output.dense.weight",
        "patch_local_atten_layer.in_proj_weight")  # fmt: skip
VIT_POOLER = ("encoder.vit_pooler.type_embed", "encoder.vit_pooler.blocks.0.attn.proj_q.weight")
WRAPPED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "rad_dino": lambda state: {"model": state | heads("mask_token")},
    "mae": lambda state: {"model": state},
    "mrm": lambda state: {"model": state | heads(*DECODER, *BERT), "epoch": 199, "optimizer": {"state": {}}},
    "ecamp": lambda state: {"model": state | heads(*DECODER, *BERT, "super_res.conv1.weight")},
    "mgca": lambda state: {"state_dict": under("img_encoder_q.model.", state) | heads(*MGCA), "epoch": 3},
    "mgca_resnet50": lambda state: {"state_dict": under("img_encoder_q.model.", state) | heads(*MGCA)},
    "biovil": lambda state: state | heads("encoder.encoder.fc.weight", "projector.model.0.weight"),
    "biovil_t": lambda state: state | heads("encoder.encoder.fc.bias", "projector.model.3.bias", *VIT_POOLER),
}
"""Released files, from the names of our network."""
SHAPE = (64, 96)


def small(name: str, **changes: Any) -> ReleasedCxrEncoder:
    """An encoder at the tests' size."""
    torch.manual_seed(0)
    encoder = build_encoder(ENCODERS[name].Settings.model_validate({"name": name, **SIZES[name], **changes}), 1)
    assert isinstance(encoder, ReleasedCxrEncoder)
    return encoder.eval()


def released_state(name: str) -> dict[str, Any]:
    """Made-up weights under the names of our network."""
    state = small(name).network.state_dict()
    return state | made_up_state(float_shapes(state))


def started(name: str, state: dict[str, Any], folder: Path, **changes: Any) -> ReleasedCxrEncoder:
    """An encoder that starts from a file with these weights."""
    torch.save(state, folder / "weights.pth")
    encoder = small(name, weights=str(folder / "weights.pth"), **changes)
    assert encoder.load_pretrained() == 1
    return encoder


def grey() -> Tensor:
    """A radiograph, values from 0 to 1."""
    return (probe_image(1, SHAPE) + 1) / 2


def as_seen(name: str) -> Tensor:
    """It as the encoder's own project shows it."""
    wanted = encoder_card(name).cxr
    assert wanted is not None
    return torch.cat([(grey() - mean) / std for mean, std in zip(wanted.mean, wanted.std, strict=True)], dim=1)


def test_every_released_encoder_has_a_card_and_is_tested() -> None:
    cards = {name for name in encoder_names() if encoder_card(name).cxr}
    assert cards == set(RELEASED_CXR) == set(SIZES) == set(FULL) == set(WRAPPED)


@pytest.mark.parametrize("name", list(RELEASED_CXR))
def test_the_released_size_has_the_released_weights(name: str) -> None:
    entries, millions = FULL[name]
    assert size_of(name) == (entries, pytest.approx(millions, abs=0.006))


@pytest.mark.parametrize("name", list(RELEASED_CXR))
def test_released_files_are_read_by_their_names(name: str, tmp_path: Path) -> None:
    state = released_state(name)
    encoder = started(name, WRAPPED[name](state), tmp_path)
    for key, value in encoder.network.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize("name", list(RELEASED_CXR))
def test_levels_tokens_and_pooled_belong_together(name: str) -> None:
    encoder = small(name)
    image = grey().requires_grad_()
    out = encoder(image)
    assert [level.shape[1] for level in out.levels] == list(encoder.level_channels)
    for level, steps in zip(out.levels, encoder.strides, strict=True):
        assert tuple(level.shape[2:]) == tuple(side // step for side, step in zip(SHAPE, steps, strict=True))
    assert torch.equal(out.tokens, out.levels[-1].flatten(2).transpose(1, 2))
    assert out.tokens.shape[2] == encoder.token_dim
    assert out.pooled.shape == (1, encoder.pooled_dim)
    out.pooled.sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
    check_probe(encoder, 1, encoder_probe(encoder, 1), "here")
    with pytest.raises(ValueError, match="multiples"):
        encoder(torch.zeros(1, 1, 65, 96))
    with pytest.raises(ModelError, match="reads radiographs"):
        small(name, spatial_dims=3)


def released_transformers_names(state: dict[str, Tensor], version: int) -> dict[str, Tensor]:
    """Names of transformers 5, as an older version has them."""
    if version == 5:
        return state
    old = {"attention.o_proj": "attention.output.dense"}
    old |= {f"attention.{short}_proj": f"attention.attention.{long}" for short, long in
            (("q", "query"), ("k", "key"), ("v", "value"))}  # fmt: skip
    found = {}
    for name, value in state.items():
        for new, before in old.items():
            name = name.replace(new, before)
        found[name] = value
    return found


@pytest.mark.parametrize("version", [4, 5])
def test_rad_dino_answers_as_transformers(version: int, tmp_path: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(image_size=64, patch_size=8, hidden_size=24, num_hidden_layers=3, num_attention_heads=4)
    model = Dinov2Model(config).eval()
    model.load_state_dict(made_up_state(float_shapes(model.state_dict())))
    names = released_transformers_names(dict(model.state_dict()), version)
    assert any("attention.attention.query" in name for name in names) == (version == 4)
    encoder = started("rad_dino", names, tmp_path, image_size=64)
    square = grey()[..., :64]
    with torch.no_grad():
        found = encoder(square)
        expected = model(pixel_values=encoder.standardize(square)).last_hidden_state
    torch.testing.assert_close(found.pooled, expected[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.tokens, expected[:, 1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["rad_dino", "mae", "mrm", "ecamp", "mgca"])
def test_transformers_answer_as_timms(name: str, tmp_path: Path) -> None:
    from timm.models.vision_transformer import VisionTransformer

    scale = {"init_values": 1.0} if name == "rad_dino" else {}
    model = VisionTransformer(
        32, 8, 3, num_classes=0, global_pool="", embed_dim=24, depth=3, num_heads=4,
        norm_layer=partial(nn.LayerNorm, eps=1e-6), **scale,
    ).eval()  # fmt: skip
    model.load_state_dict(made_up_state(float_shapes(model.state_dict())))
    encoder = started(name, WRAPPED[name](dict(model.state_dict())), tmp_path)
    assert isinstance(encoder, ReleasedViT)
    square = slice(0, 32)
    with torch.no_grad():
        found = encoder(grey()[..., square, square])
        expected = model(as_seen(name)[..., square, square])
        half = model.blocks[0](model._pos_embed(model.patch_embed(as_seen(name)[..., square, square])))
    torch.testing.assert_close(found.tokens, expected[:, 1:], atol=1e-5, rtol=1e-5)
    pooled = expected[:, 0] if name in ("rad_dino", "mgca") else expected[:, 1:].mean(1)
    torch.testing.assert_close(found.pooled, pooled, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.levels[0].flatten(2).transpose(1, 2), half[:, 1:], atol=1e-5, rtol=1e-5)


def test_mgcas_resnet_answers_as_torchvisions(tmp_path: Path) -> None:
    from torchvision.models.resnet import Bottleneck, ResNet

    model = ResNet(Bottleneck, [1, 1, 1, 1]).eval()
    model.load_state_dict(model.state_dict() | made_up_state(float_shapes(model.state_dict())))
    encoder = started("mgca_resnet50", WRAPPED["mgca_resnet50"](dict(model.state_dict())), tmp_path)
    model.fc = nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(encoder(grey()).pooled, model(as_seen("mgca_resnet50")), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("name", ["biovil", "biovil_t"])
def test_biovil_answers_as_its_package(name: str, projected: bool, tmp_path: Path) -> None:
    shapes, answers = load_golden(name)
    counters = {key: value for key, value in small(name, projected=True).network.state_dict().items()
                if not value.is_floating_point()}  # fmt: skip
    encoder = started(name, counters | made_up_state(shapes), tmp_path, projected=projected)
    with torch.no_grad():
        found = encoder(grey())
    pooled, level = ("projected", "projected_level") if projected else ("pooled", "level")
    torch.testing.assert_close(found.pooled, answers[pooled], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.levels[-1], answers[level], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["biovil", "biovil_t"])
def test_the_store_shows_a_radiograph_as_the_package_does(name: str) -> None:
    """Resize the shorter side, cut the middle, grey values from the darkest to the brightest."""
    from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor

    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.uniform(300, 3000, (18, 24)).astype(np.float32))
    pixels = np.asarray(coarse.resize((800, 600), Image.Resampling.BICUBIC))
    card = encoder_card(name)
    wanted = card.cxr
    assert wanted is not None
    assert wanted.resize is not None
    eight_bits = Image.fromarray(((pixels - pixels.min()) / np.ptp(pixels) * 255).astype(np.uint8))
    expected = Compose([Resize(wanted.resize), CenterCrop(wanted.size), ToTensor()])(eight_bits)
    recipe = CxrRecipe.model_validate(card.preprocess()["cxr"])
    stored = standardize_radiograph(Radiograph(pixels), recipe).image
    settings = CxrInputSettings(size=wanted.size, margin=wanted.resize / wanted.size, mean=0, std=1)
    shown = torch.from_numpy(cxr_input(stored, settings).image)
    assert shown.shape == expected.shape == (1, wanted.size, wanted.size)
    assert float((shown - expected).abs().max()) < 0.02
    assert float((shown - expected).abs().mean()) < 0.004


def test_a_run_wants_grey_values_as_they_are() -> None:
    changes = ["model.encoder={name: rad_dino}", "data.size=518"]
    with pytest.raises(ConfigError, match=r"rad_dino takes its own mean .*data\.mean=0 data\.std=1"):
        load_settings(PretrainConfig, "cxr/imitate", changes)
    whole = ["data.mean=0", "data.std=1"]
    assert load_settings(PretrainConfig, "cxr/place", [*changes, *whole]).model.encoder.name == "rad_dino"


@pytest.mark.parametrize("name", ["rad_dino", "mgca", "biovil"])
def test_other_models_halves_and_harmful_files_end_with_one_line(name: str, tmp_path: Path) -> None:
    other = {"embeddings.word_embeddings.weight": torch.zeros(3, 2)}
    check_bad_files(lambda weights: small(name, weights=weights), released_state(name), WRAPPED[name], other, tmp_path)
