"""Encoders that others released: their names and sizes, what they answer, how they look at a scan, and bad files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ctglip.encoder_cards import encoder_card, encoder_names
from ctglip.errors import ModelError
from ctglip.models.encoders import ENCODERS, RELEASED, build_encoder
from ctglip.models.encoders.probe import probe_image
from ctglip.models.encoders.released import ReleasedEncoder
from ctglip.models.encoders.spectre import COMBINER_FILE, SpectreSettings
from ctglip.models.encoders.totalsegmentator import TotalSegmentatorEncoderSettings
from ctglip.models.lora import add_lora, merged
from ctglip.models.region_readers import Regions
from ctglip.models.weights.matching import load_unique_state, unique_state
from tests.models.building import LABELS, dual_encoder
from tests.models.released import SIDES, SIZES, float_shapes, heads, load_golden, made_up_state, size_of, under
from tests.models.test_encoder_weights import old_folder

FULL = {
    "ct_fm": (161, 77.76),
    "spectre": (390, 338.5),
    "tangerine": (294, 310.7),
    "voxelfm": (176, 110.03),
    "m3d_clip": (138, 87.4),
    "fvlm": (149, 92.29),
    "ct_clip": (122, 174.42),
    "hlip": (150, 90.70),
    "colipri": (379, 147.11),
    "merlin": (930, 117.37),
    "suprem": (58, 4.4),
    "voco": (134, 18.64),
    "medicalnet": (318, 46.16),
    "stunet": (60, 28.73),
    "nnssl": (448, 90.3),
    "totalsegmentator": (96, 14.03),
}
"""Entries of the encoder's part of the released state dict, and millions of parameters."""


def with_second_names(state: dict[str, Any]) -> dict[str, Any]:
    """As nnU-Net's networks list their weights: all again below a decoder."""
    return {"network_weights": under("encoder.", state) | under("decoder.encoder.", state)}


def as_monai(state: dict[str, Any]) -> dict[str, Any]:
    """M3D-CLIP's names, the first layer as a matrix."""
    names = (("patch_embed.proj.", "patch_embedding.patch_embeddings.1."), (".attn.proj.", ".attn.out_proj."),
             ("positions", "patch_embedding.position_embeddings"), (".mlp.fc", ".mlp.linear"))  # fmt: skip
    found = {}
    for name, value in state.items():
        for ours, theirs in names:
            name = name.replace(ours, theirs)
        found[name] = value.flatten(1) if name.endswith("patch_embeddings.1.weight") else value
    return found


def text(prefix: str) -> dict[str, Any]:
    """A weight of a text encoder."""
    return {f"{prefix}encoder.layer.0.output.dense.weight": torch.zeros(2, 2)}


WRAPPED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "ct_fm": lambda state: under("encoder.", state) | {"up_layers.0.blocks.0.conv1.weight": torch.zeros(2)},
    "spectre": dict,
    "tangerine": lambda state: {
        "model": state | {"decoder_embed.weight": torch.zeros(2), "mask_token": torch.zeros(2)}
    },
    "voxelfm": lambda state: {"teacher": under("module.backbone.", state) | {"dino_head.mlp.0.weight": torch.zeros(2)}},
    "colipri": lambda state: under("image_encoder.", state) | {"softmax_temperature": torch.ones(1)},
    "merlin": lambda state: (
        under("encode_image.i3_resnet.", state | {"classifier.bias": torch.zeros(2)})
        | {"logit_scale": torch.ones(()), "encode_text.linear_layer.bias": torch.zeros(2)}
    ),
    "suprem": lambda state: {"net": under("module.", state | {"up_layers.0.0.norm1.weight": torch.zeros(2)})},
    "voco": lambda state: {"state_dict": under("module.swin_vit.", state) | {"encoder1.layer.w": torch.zeros(2)}},
    "medicalnet": lambda state: {"state_dict": under("module.", state) | {"module.conv_seg.0.bias": torch.zeros(2)}},
    "stunet": lambda state: {
        "state_dict": under("conv_blocks_context.", state) | {"seg_outputs.0.bias": torch.ones(2)}
    },
    "nnssl": with_second_names,
    "totalsegmentator": with_second_names,
    "m3d_clip": lambda state: under("vision_encoder.", as_monai(state)) | {"logit_scale": torch.ones(())},
    "fvlm": lambda state: {"model": {**under("visual_encoder.", state), **heads("text_proj.weight", "query_tokens",
                           "vision_projs.0.bias", "attention.in_proj_weight", "temp"), **text("text_encoder.")}},
    "ct_clip": lambda state: state | text("text_transformer.") | heads(
        "to_text_latent.weight", "to_visual_latent_extra.weight", "temperature",
        "visual_transformer.to_pixels.0.weight",
        "visual_transformer.to_patch_emb_first_frame.1.weight", "visual_transformer.vq._codebook.initted",
        "visual_transformer.enc_spatial_transformer.layers.0.1.context_norm.gamma",
        "visual_transformer.enc_spatial_transformer.layers.0.1.null_kv",
    ),
    "hlip": lambda state: {"epoch": 20, "name": "run", "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}},
                           "state_dict": under("module.", {**under("visual.", state), **text("text.transformer."),
                                                           **heads("visual.head.proj.weight", "logit_scale")})},
}  # fmt: skip
"""Released files, from the names of our network: prefixes, outer keys, and heads that are dropped."""


def small(name: str, **changes: Any) -> ReleasedEncoder:
    """An encoder at the tests' size."""
    torch.manual_seed(0)
    settings = ENCODERS[name].Settings.model_validate({"name": name, **SIZES[name], **changes})
    encoder = build_encoder(settings, changes.get("channel", 0) + 1)
    assert isinstance(encoder, ReleasedEncoder)
    return encoder.eval()


def released_state(name: str) -> dict[str, Any]:
    """Made-up weights under the released names."""
    state = unique_state(small(name).network)
    return state | made_up_state(float_shapes(state))


def test_every_released_encoder_has_a_card_and_is_tested() -> None:
    scans = {name for name in encoder_names() if encoder_card(name).ct}
    assert scans == set(RELEASED) == set(SIZES) == set(FULL) == set(SIDES)


@pytest.mark.parametrize("name", list(RELEASED))
def test_the_released_size_has_the_released_weights(name: str) -> None:
    entries, millions = FULL[name]
    assert size_of(name) == (entries, pytest.approx(millions, abs=0.05))


@pytest.mark.parametrize("name", list(RELEASED))
def test_it_answers_as_the_package_that_released_it(name: str, tmp_path: Path) -> None:
    shapes, answers = load_golden(name)
    state = small(name).network.state_dict()
    whole = {key: value for key, value in state.items() if not value.is_floating_point()} | made_up_state(shapes)
    torch.save(whole, tmp_path / "weights.pth")
    encoder = small(name, weights=str(tmp_path / "weights.pth"))
    assert encoder.load_pretrained() == 1
    with torch.no_grad():
        found = encoder(probe_image(1, SIDES[name]))
    torch.testing.assert_close(found.pooled, answers["pooled"], atol=1e-5, rtol=1e-5)
    level = next(one for one in reversed(found.levels) if one.shape == answers["level"].shape)
    torch.testing.assert_close(level, answers["level"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", list(RELEASED))
def test_released_files_are_read_by_their_names(name: str, tmp_path: Path) -> None:
    state = released_state(name)
    torch.save(WRAPPED[name](state), tmp_path / "weights.pth")
    encoder = small(name, weights=str(tmp_path / "weights.pth"))
    assert encoder.load_pretrained() == 1
    for key, value in unique_state(encoder.network).items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize("name", list(RELEASED))
def test_levels_tokens_and_pooled_belong_together(name: str) -> None:
    encoder = small(name).train()
    sides = SIDES[name]
    image = torch.randn(2, 1, *sides).clamp(-1, 1).requires_grad_()
    out = encoder(image)
    assert [level.shape[1] for level in out.levels] == list(encoder.level_channels)
    for level, steps in zip(out.levels, encoder.strides, strict=True):
        assert tuple(level.shape[2:]) == tuple(side // step for side, step in zip(sides, steps, strict=True))
    assert torch.equal(out.tokens, out.levels[-1].flatten(2).transpose(1, 2))
    assert out.tokens.shape[2] == encoder.token_dim
    assert out.pooled.shape == (2, encoder.pooled_dim)
    (out.pooled.sum() + sum(level.sum() for level in out.levels)).backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="multiples"):
        encoder(torch.zeros(1, 1, *(side + 1 for side in sides)))


@pytest.mark.parametrize("name", list(RELEASED))
def test_images_of_other_sizes_are_read(name: str) -> None:
    encoder = small(name, **({"latent": False} if name == "ct_clip" else {}))  # its latent is of one size alone
    first, *rest = SIDES[name]
    with torch.no_grad():
        once, twice = (encoder(torch.rand(1, 1, times * first, *rest)) for times in (1, 2))
    assert twice.grid == (2 * once.grid[0], *once.grid[1:])
    assert twice.pooled.shape == once.pooled.shape


@pytest.mark.parametrize("name", list(RELEASED))
def test_a_spot_is_found_where_it_is(name: str) -> None:
    """The map of what a spot changes is densest at the spot: axes come back in our order and direction."""
    encoder = small(name)
    load_unique_state(encoder.network, released_state(name))
    sides = SIDES[name]
    blank = torch.zeros(1, 1, *sides)
    steps = encoder.strides[0]
    for corner in ((0.1, 0.9, 0.1), (0.9, 0.1, 0.9), (0.9, 0.9, 0.1)):
        at = [min(int(part * side), side - 1) for part, side in zip(corner, sides, strict=True)]
        spot = blank.clone()
        spot[0, 0, at[0], at[1], at[2]] = 1
        with torch.no_grad():
            changed = (encoder(spot).levels[0] - encoder(blank).levels[0]).abs().sum((0, 1))
        found = np.unravel_index(int(changed.argmax()), changed.shape)
        wanted = [place // step for place, step in zip(at, steps, strict=True)]
        assert all(abs(a - b) <= 2 for a, b in zip(found, wanted, strict=True)), (found, wanted)


@pytest.mark.parametrize("name", ["ct_fm", "merlin", "suprem"])
def test_cells_lie_where_the_anchor_says(name: str) -> None:
    """What a cell sees is centred at its anchor, along axes that the network sees backwards too."""
    encoder = small(name)
    for module in encoder.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
    sides = [4 * side for side in SIDES[name]]
    image = torch.zeros(1, 1, *sides, requires_grad=True)
    steps = encoder.strides[1]
    level = encoder(image).levels[1]
    cell = [n // 2 for n in level.shape[2:]]
    level[0, :, cell[0], cell[1], cell[2]].sum().backward()
    assert image.grad is not None
    weight = image.grad[0, 0].abs()
    for axis, (place, step, side) in enumerate(zip(cell, steps, sides, strict=True)):
        others = [other for other in range(3) if other != axis]
        centre = float((weight.sum(others) * torch.arange(side)).sum() / weight.sum())
        assert isinstance(encoder.anchor, tuple)
        expected = place * step + (0 if encoder.anchor[axis] == "first" else step - 1)
        assert centre == pytest.approx(expected, abs=0.3 * step), (axis, centre, expected)


@pytest.mark.parametrize("reading", ["crop", "mask", "box", "query"])
@pytest.mark.parametrize("name", list(RELEASED))
def test_regions_are_read_from_its_tokens(name: str, reading: str) -> None:
    encoder = {"name": name, **SIZES[name]}
    regions = {"name": reading} | ({} if reading == "query" else {"levels": [-1]})
    model = dual_encoder(
        encoder=encoder, regions=regions, image={"name": "pooled"}, dim=8, embedding_dim=8, in_channels=1, text_dim=4,
        organs=3, organ_labels=LABELS,
    )  # fmt: skip
    sides = SIDES[name]
    images, rows = torch.rand(2, 1, *sides), torch.arange(2)
    labels = torch.ones(2, *sides, dtype=torch.long)
    boxes = torch.tensor([[0, side] for side in sides]).flatten().expand(2, -1).float()
    features = model(
        images,
        Regions(size=torch.zeros(2, 4), organ_id=rows, study_index=rows, mask=labels[:, None].float(), labels=labels,
                boxes=boxes),
    )  # fmt: skip
    assert model.diagnosis(features).shape == (2, 8)
    assert model.global_head(model.image_features(images)).shape == (2, 8)
    assert model.global_head.contributions(model.encode_image(images)).shape[:2] == (2, 8)


def test_spectre_combines_crops_as_its_package(tmp_path: Path) -> None:
    answers = load_golden("spectre")[1]
    whole = small("spectre", combine=True)
    assert whole.get_submodule("combiner")
    for folder, part in (("weights.pth", "network"), (COMBINER_FILE, "combiner")):
        state = whole.get_submodule(part).state_dict()
        torch.save(made_up_state(float_shapes(state)), tmp_path / folder)
    encoder = small("spectre", combine=True, weights=str(tmp_path / "weights.pth"))
    encoder.load_pretrained()
    with torch.no_grad():
        found = encoder(probe_image(1, SIDES["spectre"]))
    torch.testing.assert_close(found.pooled, answers["combined"], atol=1e-5, rtol=1e-5)
    with torch.device("meta"):
        full = build_encoder(SpectreSettings(combine=True), 1).get_submodule("combiner")
    assert len(full.state_dict()) == 70
    assert sum(value.numel() for value in full.parameters()) / 1e6 == pytest.approx(58.4, abs=0.05)
    (tmp_path / COMBINER_FILE).unlink()
    with pytest.raises(ModelError, match=f"{COMBINER_FILE} cannot be read"):
        small("spectre", combine=True, weights=str(tmp_path / "weights.pth")).load_pretrained()


def test_suprems_swin_transformer_is_that_of_swin_unetr(tmp_path: Path) -> None:
    from monai.networks.nets.swin_unetr import SwinUNETR

    torch.manual_seed(1)
    whole = SwinUNETR(1, 2, depths=(1, 1, 1, 1), feature_size=12).eval()
    torch.save({"net": under("module.backbone.", whole.state_dict()), "epoch": 3}, tmp_path / "weights.pth")
    changes = {"architecture": "swinunetr", "dim": 12}
    encoder = small("suprem", **changes, weights=str(tmp_path / "weights.pth"))
    assert encoder.load_pretrained() == 1
    image = probe_image(1, (32, 64, 32))
    with torch.no_grad():
        for mine, theirs in zip(encoder(image).levels, whole.swinViT((image + 1) / 2), strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_suprems_unet_is_that_of_models_genesis() -> None:
    encoder = small("suprem", architecture="unet", depths=None)
    state = made_up_state(float_shapes(encoder.network.state_dict()))
    encoder.network.load_state_dict(state, strict=False)
    x = image = probe_image(1, (16, 8, 24))
    x = (x + 1) / 2
    for number, name in enumerate(("down_tr64", "down_tr128", "down_tr256", "down_tr512")):
        x = F.max_pool3d(x, 2) if number else x
        for step in (0, 1):
            at = f"{name}.ops.{step}"
            x = F.conv3d(x, state[f"{at}.conv1.weight"], state[f"{at}.conv1.bias"], padding=1)
            parts = [state[f"{at}.bn1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
            x = F.batch_norm(x, *parts).relu()
    with torch.no_grad():
        torch.testing.assert_close(encoder(image).levels[-1], x, atol=1e-5, rtol=1e-5)
    whole = build_encoder(encoder.settings.model_copy(update={"dim": None}), 1)
    assert whole.level_channels == (64, 128, 256, 512)


@pytest.mark.parametrize(
    ("name", "changes", "file"),
    [
        ("suprem", {"architecture": "swinunetr"}, "supervised_suprem_swinunetr_2100.pth"),
        ("voco", {"dim": 96}, "VoCo_L_SSL_head.pt"),
        ("stunet", {"size": "small"}, "small_ep4k.model"),
        ("medicalnet", {"depth": 10}, "resnet_10_23dataset.pth"),
    ],
)
def test_files_are_those_of_the_size(name: str, changes: dict[str, Any], file: str) -> None:
    settings = ENCODERS[name].Settings.model_validate({"name": name, **changes})
    encoder = build_encoder(settings, 1)
    assert isinstance(encoder, ReleasedEncoder)
    assert encoder.released_files[0] == file


def test_totalsegmentators_folder_says_architecture_and_intensities(tmp_path: Path) -> None:
    folder = old_folder(tmp_path / "task")
    plans = json.loads((folder / "plans.json").read_text())
    known = {"percentile_00_5": -900.0, "percentile_99_5": 700.0, "mean": 20.0, "std": 300.0}
    (folder / "plans.json").write_text(
        json.dumps(plans | {"foreground_intensity_properties_per_channel": {"0": known}})
    )
    settings = TotalSegmentatorEncoderSettings(weights=str(folder))
    encoder = build_encoder(settings, 1).eval()
    assert encoder.load_pretrained() == 1
    assert encoder.strides == ((1, 1, 1), (2, 2, 1), (4, 4, 2))
    image = probe_image(1, (16, 32, 24))
    hu = (-1024 + (image + 1) / 2 * 4095).clamp(-900, 700)
    with torch.no_grad():
        theirs = encoder.get_submodule("network")(((hu - 20) / 300).permute(0, 1, 4, 3, 2))
        found = encoder(image)
    torch.testing.assert_close(found.levels[-1].permute(0, 1, 4, 3, 2), theirs[-1], atol=1e-5, rtol=1e-5)
    saved = encoder.settings.model_copy(update={"weights": None}).model_dump(mode="json")
    again = build_encoder(TotalSegmentatorEncoderSettings.model_validate(saved), 1)
    assert again.strides == encoder.strides
    with pytest.raises(ModelError, match=r"fold_3 holds no checkpoint_final\.pth"):
        build_encoder(TotalSegmentatorEncoderSettings(weights=str(folder), fold="3"), 1).load_pretrained()
    with pytest.raises(ModelError, match=r"holds no plans\.json"):
        build_encoder(TotalSegmentatorEncoderSettings(weights=str(tmp_path)), 1)


@pytest.mark.parametrize("name", list(RELEASED))
def test_checkpointing_and_low_rank_updates_change_nothing_at_first(name: str) -> None:
    plain, saving = small(name), small(name, checkpointing=True)
    load_unique_state(saving.network, unique_state(plain.network))
    image = probe_image(1, SIDES[name])
    expected = plain(image).pooled
    torch.testing.assert_close(saving(image).pooled, expected)
    add_lora(plain, 2)
    found = plain(image).pooled
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    found.sum().backward()
    assert sum(one.grad is not None for one in plain.parameters()) > 2
    torch.testing.assert_close(merged(plain)(image).pooled, expected, atol=1e-4, rtol=1e-4)
