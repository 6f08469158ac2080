"""timm's models as encoders of radiographs."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ctglip.errors import ModelError
from ctglip.models.encoders.base import Encoder, EncoderSettings, inflated, read_weights
from ctglip.models.weights.matching import fill
from ctglip.resources import require


class TimmSettings(EncoderSettings):
    """Any timm model with feature maps, for radiographs. ``weights``: ``timm`` (downloads those of ``model``) or a
    file."""

    name: Literal["timm"] = "timm"  # pyright: ignore[reportIncompatibleVariableOverride]
    spatial_dims: Literal[2, 3] = 2
    model: str = "resnet50"


class TimmEncoder(Encoder):
    """The feature maps of any timm model that has some.

    Args:
        settings: the model's name.
        in_channels: channels of the radiographs.

    Raises:
        ModelError: code ``timm``: a scan, an unknown model, or one without feature maps.
    """

    Settings = TimmSettings

    def __init__(self, settings: TimmSettings, in_channels: int) -> None:
        super().__init__()
        timm = require("timm", extra="cxr")
        if settings.spatial_dims != 2:
            raise ModelError("timm's encoders are for radiographs (spatial_dims: 2).", code="timm")
        self.settings = settings
        try:
            self.net = timm.create_model(settings.model, pretrained=False, features_only=True, in_chans=in_channels)
        except (RuntimeError, AttributeError, TypeError) as error:
            near = timm.list_models(f"*{settings.model.split('_')[0]}*")[:5]
            raise ModelError(
                f"timm cannot build feature maps of {settings.model!r}: {error}.",
                code="timm",
                fix=f"Some it knows: {', '.join(near) or 'see timm.list_models()'}.",
            ) from error
        self.level_channels = tuple(self.net.feature_info.channels())
        self.token_dim = self.level_channels[-1]
        self.strides = tuple((step,) * 2 for step in self.net.feature_info.reduction())
        if settings.checkpointing:
            self.net.set_grad_checkpointing(True)

    def maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """timm's feature maps."""
        return tuple(self.net(image))

    def fill_from(self, source: str) -> float:
        """From a file, or downloaded (``timm``)."""
        assert isinstance(self.settings, TimmSettings)
        state = read_weights(f"timm:{self.settings.model}" if source == "timm" else source)
        return fill(self.net, state, source, self.settings.partial, inflated, flat=True)
