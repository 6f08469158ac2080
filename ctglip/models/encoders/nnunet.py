"""The encoder of an nnU-Net: nnU-Net's own residual encoder, or whatever the plans of a trained folder say."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from ctglip.errors import ModelError
from ctglip.files import read_json
from ctglip.models.encoders.base import Encoder, EncoderSettings, inflated, model_folder
from ctglip.models.weights.matching import fill
from ctglip.models.weights.reading import State, read_state

_NETWORKS = "dynamic_network_architectures.architectures.unet"
_KNOWN_NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet")
_LAYERS = (
    *(f"{layer}{dims}d" for layer in ("Conv", "BatchNorm", "InstanceNorm", "Dropout") for dims in (2, 3)),
    *("LeakyReLU", "ReLU", "GELU", "SiLU", "ELU", "PReLU"),
)
"""Layers of torch.nn that plans may name."""
_CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
_AXIS_KEYS = ("kernel_sizes", "strides")


class NNUNetSettings(EncoderSettings):
    """The encoder of an nnU-Net. ``weights``: the folder of a trained one (``plans.json``, ``fold_X``), also one of
    TotalSegmentator's; its architecture is then the plans'.

    Attributes:
        widths, blocks: of the residual encoder that is built where no folder gives another.
        configuration: which one of the folder's plans.
        fold: which fold's weights.
        architecture: as the plans write it (network_class_name, arch_kwargs, _kw_requires_import); filled in from
            the folder, so that a saved model needs the folder no more.
        axes: the order of the image's axes in the network; filled in from the folder (nnU-Net has z first).
    """

    name: Literal["nnunet"] = "nnunet"  # pyright: ignore[reportIncompatibleVariableOverride]
    widths: tuple[int, ...] = (32, 64, 128, 256, 320, 320)
    blocks: tuple[int, ...] = (1, 3, 4, 6, 6, 6)
    configuration: str = "3d_fullres"
    fold: str = "0"
    architecture: dict[str, Any] | None = None
    axes: tuple[int, ...] | None = None

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        return (
            dict.fromkeys(("widths", "blocks"), "the folder of weights says them")
            if self.weights
            else {**super().unread(), **dict.fromkeys(("configuration", "fold"), "weights are random")}
        )


class NNUNetEncoder(Encoder):
    """The encoder half; it sees images in this project's axis order and turns its kernels, not the images.

    Args:
        settings: architecture, or the folder to read it from.
        in_channels: channels of the images.

    Raises:
        ModelError: code ``nnunet``: the folder's plans cannot be read or name an unknown network.
    """

    Settings = NNUNetSettings

    def __init__(self, settings: NNUNetSettings, in_channels: int) -> None:
        super().__init__()
        if settings.architecture is None:
            settings = read_plans(settings) if settings.weights else _residual(settings)
        assert settings.architecture is not None
        self.settings = settings
        dims = settings.spatial_dims
        self.encoder = _build(settings.architecture, in_channels, settings.axes or tuple(range(dims)))
        self.level_channels = tuple(int(width) for width in self.encoder.output_channels)
        self.token_dim = self.level_channels[-1]
        self.strides = total_strides(self.encoder.strides, dims)

    def maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """All stages' maps."""
        x = image if getattr(self.encoder, "stem", None) is None else self.encoder.stem(image)
        return self.after_each(self.encoder.stages, x)

    def fill_from(self, source: str) -> float:
        """From the folder of a trained nnU-Net."""
        return fill(self.encoder, checkpoint_state(self), source, self.settings.partial, inflated)


def total_strides(steps: Iterable[int | Sequence[int]], dims: int) -> tuple[tuple[int, ...], ...]:
    """Voxels of the input for one step on each level's grid, from the step of each stage on the one before."""
    each = ((step,) * dims if isinstance(step, int) else tuple(step) for step in steps)
    return tuple(accumulate(each, lambda total, step: tuple(a * b for a, b in zip(total, step, strict=True))))


def read_plans(settings: NNUNetSettings) -> NNUNetSettings:
    """The settings completed from the plans of a trained folder, or from a run or model folder of ours.

    Raises:
        ModelError: code ``nnunet``.
    """
    folder = Path(settings.weights or "")
    if (model := model_folder(folder)) is not None:
        encoder = read_json(model / "config.json")["model"]["encoder"]
        if encoder["name"] != "nnunet":
            raise ModelError(f"The image encoder of {folder} is a {encoder['name']}, no nnU-Net.", code="nnunet")
        keys = ("architecture", "axes", "spatial_dims")
        return NNUNetSettings.model_validate({**settings.model_dump(), **{key: encoder[key] for key in keys}})
    if not (folder / "plans.json").is_file():
        raise ModelError(
            f"{folder} holds no plans.json.",
            code="nnunet",
            fix="Name the folder nnUNetTrainer__nnUNetPlans__3d_fullres of a trained nnU-Net, or a run of ctglip.",
        )
    plans = read_json(folder / "plans.json")
    plan = _configuration(plans, settings.configuration, folder)
    architecture = plan["architecture"] if "architecture" in plan else _old_architecture(plan)
    dims = 3 if "Conv3d" in str(architecture["arch_kwargs"]["conv_op"]) else 2
    forward = list(plans.get("transpose_forward", range(3)))
    axes = tuple(forward.index(2 - axis) for axis in range(3)) if dims == 3 else (0, 1)
    change = {"architecture": architecture, "axes": axes, "spatial_dims": dims}
    return settings.model_copy(update=change)


def checkpoint_state(encoder: NNUNetEncoder) -> State:
    """The weights of the folder and fold that an encoder's settings name, kernels turned to our axis order.

    Raises:
        ModelError: code ``nnunet``: no checkpoint; ``weights``: it cannot be read.
    """
    settings = encoder.settings
    assert isinstance(settings, NNUNetSettings)
    file = fold_checkpoint(Path(settings.weights or ""), settings.fold)
    axes = settings.axes or (0, 1, 2)[: settings.spatial_dims]
    order = (0, 1, *(2 + axis for axis in axes))
    state = read_state(file)
    state = {name: value for name, value in state.items() if name.startswith("network_weights.")}
    return {name: value.permute(order) if value.dim() == len(order) else value for name, value in state.items()}


def fold_checkpoint(folder: Path, fold: str) -> Path:
    """The checkpoint of one fold of a trained folder.

    Raises:
        ModelError: code ``nnunet``: there is none.
    """
    inside = folder / f"fold_{fold}"
    for name in _CHECKPOINTS:
        if (inside / name).is_file():
            return inside / name
    raise ModelError(f"{inside} holds no {_CHECKPOINTS[0]}.", code="nnunet", fix="Name another fold.")


def _residual(settings: NNUNetSettings) -> NNUNetSettings:
    """nnU-Net's residual encoder of the given widths, as plans would write it."""
    stages, dims = len(settings.widths), settings.spatial_dims
    arguments = {
        "n_stages": stages,
        "features_per_stage": list(settings.widths),
        "kernel_sizes": [[3] * dims] * stages,
        "strides": [[1] * dims] + [[2] * dims] * (stages - 1),
        "n_blocks_per_stage": list(settings.blocks),
        "n_conv_per_stage_decoder": [1] * (stages - 1),
    }
    architecture = unet_plan("ResidualEncoderUNet", dims, arguments)
    return settings.model_copy(update={"architecture": architecture, "axes": tuple(range(dims))})


def _build(architecture: dict[str, Any], in_channels: int, axes: tuple[int, ...]) -> Any:
    """The encoder of the network that the plans describe, its kernels and strides turned to our axis order."""
    return build_unet(architecture, in_channels, axes).encoder


def build_unet(architecture: dict[str, Any], in_channels: int, axes: tuple[int, ...], classes: int = 2) -> Any:
    """The whole network that the plans describe, its kernels and strides turned to another axis order."""
    arguments = dict(architecture["arch_kwargs"])
    for key in architecture["_kw_requires_import"]:
        arguments[key] = None if arguments[key] is None else getattr(nn, _known(arguments[key], "torch.nn", _LAYERS))
    for key in _AXIS_KEYS:
        arguments[key] = [size if isinstance(size, int) else [size[axis] for axis in axes] for size in arguments[key]]
    networks = importlib.import_module(_NETWORKS)
    network = getattr(networks, _known(architecture["network_class_name"], _NETWORKS, _KNOWN_NETWORKS))
    return network(input_channels=in_channels, num_classes=classes, deep_supervision=False, **arguments)


def _known(dotted: Any, package: str, names: Collection[str]) -> str:
    """The last part of a dotted name that is of a package (or a module of it) and one of those that plans may name.

    Raises:
        ModelError: code ``nnunet``: another name. Nothing is imported by a name that a file gives.
    """
    module, _, name = str(dotted).rpartition(".")
    if name not in names or not f"{module}.".startswith(f"{package}."):
        raise ModelError(f"The plans name {dotted!r}, expected one of {package}: {', '.join(names)}.", code="nnunet")
    return name


def _configuration(plans: dict[str, Any], name: str, folder: Path) -> dict[str, Any]:
    """One configuration with what it inherits."""
    known = plans.get("configurations", {})
    if name not in known:
        raise ModelError(
            f"The plans in {folder} have no configuration {name!r}.",
            code="nnunet",
            fix=f"Set configuration to one of: {', '.join(known)}.",
        )
    plan = known[name]
    above = plan.get("inherits_from")
    return {**_configuration(plans, above, folder), **plan} if above else plan


def _old_architecture(plan: dict[str, Any]) -> dict[str, Any]:
    """The architecture of plans written before nnU-Net 2.5 (TotalSegmentator's)."""
    stages = len(plan["n_conv_per_stage_encoder"])
    widths = [min(plan["UNet_base_num_features"] * 2**i, plan["unet_max_num_features"]) for i in range(stages)]
    dims = len(plan["patch_size"])
    residual = plan["UNet_class_name"] == "ResidualEncoderUNet"
    arguments = {
        "n_stages": stages,
        "features_per_stage": widths,
        "kernel_sizes": plan["conv_kernel_sizes"],
        "strides": plan["pool_op_kernel_sizes"],
        "n_blocks_per_stage" if residual else "n_conv_per_stage": plan["n_conv_per_stage_encoder"],
        "n_conv_per_stage_decoder": plan["n_conv_per_stage_decoder"],
    }
    name = _known(f"{_NETWORKS}.{plan['UNet_class_name']}", _NETWORKS, _KNOWN_NETWORKS)
    return unet_plan(name, dims, arguments)


def unet_plan(network: str, dims: int, arguments: dict[str, Any]) -> dict[str, Any]:
    """A network as plans of nnU-Net 2.5 write it: what differs, and what all of nnU-Net's networks have in common."""
    common = {
        "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return {
        "network_class_name": f"{_NETWORKS}.{network}",
        "arch_kwargs": {**arguments, **common},
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
