"""TotalSegmentator's encoders: those of nnU-Nets whose folders say architecture and intensities (Apache-2.0)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from ctglip.files import read_json
from ctglip.models.encoders.base import model_folder
from ctglip.models.encoders.nnunet import (
    NNUNetSettings,
    build_unet,
    fold_checkpoint,
    read_plans,
    total_strides,
    unet_plan,
)
from ctglip.models.encoders.released import ReleasedCtSettings, ReleasedEncoder
from ctglip.models.weights.reading import read_state
from ctglip.models.weights.scheme import KeyScheme, fill_by_scheme


class TotalSegmentatorEncoderSettings(ReleasedCtSettings):
    """An encoder of TotalSegmentator's. ``weights``: the folder of a task, with ``plans.json`` and ``fold_0``.

    Attributes:
        widths, convolutions: of the stages that are built where no folder gives others.
        configuration: which one of the folder's plans.
        fold: which fold's weights.
        architecture: as the plans write it; filled in from the folder, so that a saved model needs the folder no more.
        intensities: HU that are kept (lowest, highest), mean and deviation; filled in from the folder likewise.
    """

    name: Literal["totalsegmentator"] = "totalsegmentator"  # pyright: ignore[reportIncompatibleVariableOverride]
    widths: tuple[int, ...] = (32, 64, 128, 256, 320, 320)
    convolutions: tuple[int, ...] = (2, 2, 2, 2, 2, 2)
    configuration: str = "3d_fullres"
    fold: str = "0"
    architecture: dict[str, Any] | None = None
    intensities: tuple[float, float, float, float] | None = None

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        if self.weights is None or Path(self.weights).is_file():
            names, reason = ("configuration", "fold"), "no folder of weights is named"
        else:
            names, reason = ("widths", "convolutions"), "the folder of weights says them"
        return {**super().unread(), **dict.fromkeys(names, reason)}


class TotalSegmentatorEncoder(ReleasedEncoder):
    """All stages; the network's axes lead to head, front and right, as TotalSegmentator turns its scans."""

    Settings = TotalSegmentatorEncoderSettings
    scheme = KeyScheme(
        outer=("network_weights",),
        strip=("module.", "_orig_mod."),
        drop=(r"decoder\..*", r".*\.all_modules\..*"),
        root=("encoder.",),
    )
    settings: TotalSegmentatorEncoderSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, settings: TotalSegmentatorEncoderSettings, in_channels: int) -> None:
        if settings.architecture is None:
            folder = Path(settings.weights) if settings.weights else None
            settings = _plain(settings) if folder is None or folder.is_file() else _from_folder(settings, folder)
        super().__init__(settings, in_channels)
        assert settings.architecture is not None
        self.network = build_unet(settings.architecture, 1, (0, 1, 2)).encoder
        self.anchor = self.kernel_anchor()
        self.level_channels = tuple(int(width) for width in self.network.output_channels)
        self.token_dim = self.level_channels[-1]
        self.strides = tuple(self.turned(steps) for steps in total_strides(self.network.strides, 3))

    def standardize(self, image: Float[Tensor, "b 1 *s"]) -> Float[Tensor, "b 1 *t"]:
        """HU clipped and scaled as the plans say; z-scores of each image where there are none."""
        if self.settings.intensities is None:
            return super().standardize(image)
        low, high = self.ct_input.window_hu
        least, most, mean, std = self.settings.intensities
        hu = (low + (image + 1) * ((high - low) / 2)).clamp(least, most)
        return self.turned_image((hu - mean) / std)

    def features(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """All stages' maps."""
        x = image if getattr(self.network, "stem", None) is None else self.network.stem(image)
        return self.after_each(self.network.stages, x), None

    def fill_from(self, source: str) -> float:
        """From the fold of a task's folder, or from its checkpoint alone (then ``widths`` and ``convolutions`` count).

        Raises:
            ModelError: code ``nnunet``: no checkpoint; ``weights``: it does not fit.
        """
        path = Path(source)
        file = path if path.is_file() else fold_checkpoint(path, self.settings.fold)
        return fill_by_scheme(self.network, read_state(file), self.scheme, source, self.settings.partial)


def _from_folder(settings: TotalSegmentatorEncoderSettings, folder: Path) -> TotalSegmentatorEncoderSettings:
    """The settings completed from a task's plans, or from a run or model folder of ours."""
    if (model := model_folder(folder)) is not None:
        encoder = read_json(model / "config.json")["model"]["encoder"]
        keys = ("architecture", "intensities")
        return TotalSegmentatorEncoderSettings.model_validate(
            {**settings.model_dump(), **{k: encoder.get(k) for k in keys}}
        )
    plans = read_plans(NNUNetSettings(weights=str(folder), configuration=settings.configuration))
    found = {"architecture": plans.architecture}
    known = read_json(folder / "plans.json").get("foreground_intensity_properties_per_channel", {}).get("0")
    if known:
        keys = ("percentile_00_5", "percentile_99_5", "mean", "std")
        found["intensities"] = tuple(float(known[key]) for key in keys)  # pyright: ignore[reportArgumentType]
    return settings.model_copy(update=found)


def _plain(settings: TotalSegmentatorEncoderSettings) -> TotalSegmentatorEncoderSettings:
    """nnU-Net's plain encoder of the given widths, as plans write it."""
    stages = len(settings.widths)
    arguments = {
        "n_stages": stages,
        "features_per_stage": list(settings.widths),
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
        "n_conv_per_stage": list(settings.convolutions),
        "n_conv_per_stage_decoder": [1] * (stages - 1),
    }
    return settings.model_copy(update={"architecture": unet_plan("PlainConvUNet", 3, arguments)})
