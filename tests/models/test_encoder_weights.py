"""Weights to start encoders from: which files are read, what does not fit, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ctglip.errors import ModelError
from ctglip.models.encoders import build_encoder
from ctglip.models.encoders.nnunet import NNUNetSettings
from ctglip.models.weights.matching import unique_state
from tests.models.test_encoders import SMALL, small


def plain(folder, name: str, state, seed: int = 0):
    """An encoder that is to start from a file."""
    torch.manual_seed(seed)
    torch.save(state, folder / "weights.pth")
    return build_encoder(small(name, weights=str(folder / "weights.pth")), 1)


def source_state(name: str, seed: int = 1):
    torch.manual_seed(seed)
    return build_encoder(SMALL[name], 1).state_dict()


def under(prefix: str, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


@pytest.mark.parametrize("name", ["cnn", "vit"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state, other: under("module.", state),
        lambda state, other: {"epoch": 3, "state_dict": under("module.encoder.", state)},
        lambda state, other: {"state_dict": under("model.backbone.", state) | {"model.head.weight": torch.zeros(3)}},
        lambda state, other: {"model": under("net.", state), "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
        lambda state, other: under("visual.", state) | under("text.", {"embed.weight": torch.zeros(4, 4)}),
        lambda state, other: under("_orig_mod.module.image_encoder.trunk.", state),
        lambda state, other: {"state_dict": other, "state_dict_ema": state},
        lambda state, other: {"student": under("backbone.", other), "teacher": under("backbone.", state)},
        lambda state, other: under("model.", other) | under("ema_model.", state),
        lambda state, other: under("encoder.", state) | under("decoder.encoder.", state),
        lambda state, other: {n: v.half() if v.is_floating_point() else v for n, v in under("a.b.", state).items()},
    ],
)
def test_wrapped_weights_are_found(tmp_path, name: str, wrap) -> None:
    state, other = source_state(name), source_state(name, seed=2)
    encoder = plain(tmp_path, name, wrap(state, other))
    assert encoder.load_pretrained() == 1
    for key, value in encoder.state_dict().items():
        torch.testing.assert_close(value, state[key], atol=2e-3, rtol=2e-3)


def test_two_networks_that_fit_equally_well_are_not_chosen_from(tmp_path) -> None:
    state, other = source_state("cnn"), source_state("cnn", seed=2)
    with pytest.raises(ModelError, match=r"several networks that fit .*'encoder_k\.', 'encoder_q\.'"):
        plain(tmp_path, "cnn", under("encoder_q.", state) | under("encoder_k.", other)).load_pretrained()


def test_a_key_that_is_missing_or_does_not_fit_is_an_error_with_both_lists(tmp_path) -> None:
    state = source_state("cnn")
    names = list(state)
    first, second = names[0], names[-1]
    broken = {"extra.weight": torch.zeros(2), **{n: v for n, v in state.items() if n != first}}
    broken[second] = torch.zeros(*state[second].shape, 2)
    with pytest.raises(ModelError) as caught:
        plain(tmp_path, "cnn", under("module.", broken)).load_pretrained()
    text = str(caught.value)
    for part in (f"Missing (1): {first}", f"Of another shape (1): {second}", "Unexpected (1): extra.weight"):
        assert part in text
    few = dict(list(state.items())[:2])
    with pytest.raises(ModelError, match=r"Not all weights .*\(\d\.\d %"):
        plain(tmp_path, "cnn", few).load_pretrained()


def test_a_part_is_enough_only_where_it_is_asked_for_and_large(tmp_path, caplog) -> None:
    state = source_state("cnn")
    sizes = {name: value.numel() for name, value in state.items()}
    small_one, large = min(sizes, key=lambda n: sizes[n]), max(sizes, key=lambda n: sizes[n])

    def start(left: str):
        torch.save({n: v for n, v in state.items() if n != left}, tmp_path / "w.pth")
        torch.manual_seed(5)
        return build_encoder(small("cnn", weights=str(tmp_path / "w.pth"), partial=True), 1)

    encoder = start(small_one)
    before = encoder.state_dict()[small_one].clone()
    share = encoder.load_pretrained()
    assert share == pytest.approx(1 - sizes[small_one] / sum(sizes.values()))
    assert torch.equal(encoder.state_dict()[small_one], before)
    assert f"{100 * share:.1f} %" in caplog.text
    assert small_one in caplog.text
    assert sizes[large] > 0.1 * sum(sizes.values())
    with pytest.raises(ModelError, match=f"Missing \\(1\\): {large}"):
        start(large).load_pretrained()


def test_weights_that_cannot_be_read_are_errors(tmp_path) -> None:
    def start(path):
        return build_encoder(small("vit", weights=str(path)), 1).load_pretrained()

    with pytest.raises(ModelError, match="cannot be read"):
        start(tmp_path / "none.pth")
    torch.save({"other": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="None of the weights"):
        start(tmp_path / "other.pth")
    torch.save(source_state("vit"), tmp_path / "good.pth")
    save_file({n: v.contiguous() for n, v in source_state("vit").items()}, tmp_path / "good.safetensors")
    for name in ("good.pth", "good.safetensors"):
        content = (tmp_path / name).read_bytes()
        for kind, broken in (("cut", content[: len(content) // 2]), ("empty", b""), ("noise", bytes(range(256)) * 50)):
            path = tmp_path / f"{kind}.{name.rpartition('.')[2]}"
            path.write_bytes(broken)
            with pytest.raises(ModelError, match="cannot be read"):
                start(path)
    with pytest.raises(ModelError, match="cannot be read"):
        start(tmp_path)
    bad = source_state("vit")
    bad["norm.weight" if "norm.weight" in bad else next(iter(bad))].fill_(float("nan"))
    torch.save(bad, tmp_path / "nan.pth")
    with pytest.raises(ModelError, match="NaN or infinite"):
        start(tmp_path / "nan.pth")
    assert build_encoder(SMALL["vit"], 1).load_pretrained() == 0


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_never_runs(tmp_path) -> None:
    torch.save({"state_dict": source_state("cnn"), "x": Harmful(tmp_path / "ran")}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="more than tensors and plain values"):
        build_encoder(small("cnn", weights=str(tmp_path / "w.pth")), 1).load_pretrained()
    assert not (tmp_path / "ran").exists()


OLD_PLAN = {
    "patch_size": [16, 32, 32],
    "UNet_class_name": "PlainConvUNet",
    "UNet_base_num_features": 4,
    "unet_max_num_features": 8,
    "n_conv_per_stage_encoder": [1, 2, 1],
    "n_conv_per_stage_decoder": [1, 1],
    "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
}


def old_folder(folder: Path) -> Path:
    """A trained folder as TotalSegmentator's are: old plans, axes (z, y, x), one input channel."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    torch.manual_seed(0)
    plans = {"transpose_forward": [0, 1, 2], "configurations": {"3d_fullres": OLD_PLAN}}
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    kernels, strides = OLD_PLAN["conv_kernel_sizes"], OLD_PLAN["pool_op_kernel_sizes"]
    norm = {"norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"eps": 1e-5, "affine": True}}
    net = PlainConvUNet(
        1, 3, [4, 8, 8], nn.Conv3d, kernels, strides, [1, 2, 1], 3, [1, 1], conv_bias=True, nonlin=nn.LeakyReLU, **norm
    )
    torch.save({"network_weights": net.state_dict()}, folder / "fold_0" / "checkpoint_final.pth")
    return folder


def test_weights_of_old_plans_are_turned_to_our_axes(tmp_path):
    folder = old_folder(tmp_path / "trained")
    encoder = build_encoder(NNUNetSettings(weights=str(folder)), in_channels=1)
    encoder.load_pretrained()
    assert encoder.strides == ((1, 1, 1), (2, 2, 1), (4, 4, 2))
    state = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=True)["network_weights"]
    image = torch.randn(1, 1, 32, 32, 16)
    first = "encoder.stages.0.0.convs.0.conv"
    zyx = image.permute(0, 1, 4, 3, 2)
    expected = nn.functional.conv3d(zyx, state[f"{first}.weight"], state[f"{first}.bias"], padding=(0, 1, 1))
    mine = encoder.encoder.stages[0][0].convs[0].conv(image)
    torch.testing.assert_close(mine.permute(0, 1, 4, 3, 2), expected, atol=1e-5, rtol=1e-5)
    four = build_encoder(NNUNetSettings(weights=str(folder)), in_channels=4)
    four.load_pretrained()
    torch.testing.assert_close(
        four(image.expand(-1, 4, -1, -1, -1)).pooled, encoder(image).pooled, atol=1e-4, rtol=1e-4
    )


def test_nnunet_folders_that_cannot_be_used_say_why(tmp_path):
    with pytest.raises(ModelError, match=r"no plans\.json"):
        build_encoder(NNUNetSettings(weights=str(tmp_path)), 1)
    folder = old_folder(tmp_path / "trained")
    with pytest.raises(ModelError, match="3d_fullres"):
        build_encoder(NNUNetSettings(weights=str(folder), configuration="2d"), 1)
    with pytest.raises(ModelError, match="fold_3"):
        build_encoder(NNUNetSettings(weights=str(folder), fold="3"), 1).load_pretrained()
    evil = {"network_class_name": "os.system", "arch_kwargs": {"conv_op": "x"}, "_kw_requires_import": []}
    with pytest.raises(ModelError, match=r"os\.system"):
        build_encoder(NNUNetSettings(architecture={**evil, "arch_kwargs": {"kernel_sizes": [], "strides": []}}), 1)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("conv_op", "torch.nn.modules.module.register_module_forward_hook"),
        ("conv_op", "torch.nn.functional.torch.serialization.load"),
        ("norm_op", "torch.nn.modules.lazy.itertools.count"),
        ("norm_op", "own_module.InstanceNorm3d"),
        ("nonlin", "torch.nnx.ReLU"),
        ("network", "dynamic_network_architectures.architectures.unet.torch.load"),
        ("network", "dynamic_network_architectures.architectures.own.PlainConvUNet"),
        ("network", "own_module.PlainConvUNet"),
    ],
)
def test_plans_name_layers_and_networks_of_a_fixed_list_alone(tmp_path, monkeypatch, key, name):
    (tmp_path / "own_module.py").write_text("raise SystemExit('code of a file was run')")
    monkeypatch.syspath_prepend(tmp_path)
    known = build_encoder(SMALL["nnunet"], 1).settings.architecture
    architecture = json.loads(json.dumps(known))
    place = architecture if key == "network" else architecture["arch_kwargs"]
    place["network_class_name" if key == "network" else key] = name
    with pytest.raises(ModelError, match="The plans name") as caught:
        build_encoder(NNUNetSettings(architecture=architecture, axes=(0, 1, 2)), 1)
    assert caught.value.code == "nnunet"


def saved(folder: Path, encoder) -> Path:
    """What a model folder holds of its image encoder."""
    folder.mkdir(parents=True)
    settings = encoder.settings.model_copy(update={"weights": None})
    (folder / "config.json").write_text(json.dumps({"model": {"encoder": settings.model_dump(mode="json")}}))
    state = {f"encoder.{name}": value.contiguous() for name, value in unique_state(encoder).items()}
    save_file({**state, "text_head.bias": torch.zeros(3)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", ["cnn", "resnet", "vit", "nnunet"])
def test_a_run_gives_its_image_encoder_to_another(tmp_path, name):
    torch.manual_seed(1)
    before = build_encoder(SMALL[name], 1)
    saved(tmp_path / "run" / "model", before)
    for source in (tmp_path / "run", tmp_path / "run" / "model"):
        settings = NNUNetSettings() if name == "nnunet" else SMALL[name]
        encoder = build_encoder(settings.model_copy(update={"weights": str(source)}), 1)
        assert encoder.load_pretrained() == 1
        state = before.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in encoder.state_dict().items())
    other = build_encoder(SMALL["swin"].model_copy(update={"weights": str(tmp_path / "run")}), 1)
    with pytest.raises(ModelError, match="None of the weights"):
        other.load_pretrained()


def test_an_nnunet_takes_no_other_encoder(tmp_path):
    saved(tmp_path / "run" / "model", build_encoder(SMALL["cnn"], 1))
    with pytest.raises(ModelError, match="is a cnn, no nnU-Net"):
        build_encoder(NNUNetSettings(weights=str(tmp_path / "run")), 1)
