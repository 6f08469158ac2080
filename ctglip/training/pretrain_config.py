"""What a pretraining run is made of: one file of settings, kept in the run as ``config.resolved.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import model_validator

from ctglip.config import OneOf, RootSettings, Settings
from ctglip.data.cxr import CxrDataSettings
from ctglip.data.organs import CropDataSettings
from ctglip.data.scans import ScanDataSettings
from ctglip.data.tokens import TokenDataSettings
from ctglip.errors import ConfigError
from ctglip.models.dual_encoder import DualEncoderSettings
from ctglip.models.encoders.base import EncoderSettings
from ctglip.models.encoders.released import ReleasedSettings, channel_of, released_window
from ctglip.models.image_heads import PooledHeadSettings
from ctglip.models.region_readers import REGION_READERS, CropReaderSettings, RegionReaderSettings
from ctglip.models.resampler import ResamplerSettings
from ctglip.models.tags import TagSettings
from ctglip.models.text import TextEncoderSettings
from ctglip.objectives.base import ObjectiveSettings
from ctglip.objectives.registry import OBJECTIVES, AnyObjectiveSettings, needs_of, parts_of
from ctglip.objectives.text_contrast import OrganTextSettings
from ctglip.training.optim import OptimSettings
from ctglip.training.schedule import Duration, in_steps, timed
from ctglip.training.trainer import LoopSettings

S = TypeVar("S", bound=Settings)
DATA = {"crops": CropDataSettings, "scans": ScanDataSettings, "tokens": TokenDataSettings, "cxr": CxrDataSettings}
"""Kinds of training data by the ``name`` of their settings."""
AnyDataSettings = Annotated[
    CropDataSettings | ScanDataSettings | TokenDataSettings | CxrDataSettings, OneOf(DATA, default="crops")
]

_OF_TEXTS = ("organs", "truncated", "unmentioned_as_negative", "permute_texts")
"""Settings of data that count where texts are read."""
_READERS = {
    "crops": {"crop"},
    "scans": {"mask", "box", "query"},
    "tokens": {"mask", "query"},
    "cxr": {"box", "query"},
}


class PretrainConfig(RootSettings):
    """One pretraining run.

    Attributes:
        seed: of weights, batches, texts and augmentations.
        initial: start from the weights of this run or model folder rather than from chance (``model.encoder.weights``
            names weights for the image encoder alone).
        data: the images and texts that are read: crops of organs, whole scans, or radiographs, by its ``name``.
        model: a part that is null is there where the objective needs it (``regions``: of crops); one that is set and
            that nothing trains is an error.
        objective: one of those in ``objectives.registry``, or a ``mixture`` of them, by its ``name``.
    """

    kind: Literal["pretrain"] = "pretrain"
    seed: int = 0
    initial: str | None = None
    data: AnyDataSettings = CropDataSettings()
    text: TextEncoderSettings = TextEncoderSettings()
    model: DualEncoderSettings = DualEncoderSettings()
    objective: AnyObjectiveSettings = OrganTextSettings()
    optim: OptimSettings = OptimSettings()
    loop: LoopSettings = LoopSettings()

    def reads(self, part: ObjectiveSettings) -> Literal["crops", "scans", "tokens", "cxr"]:
        """The kind of images that a part of the objective reads."""
        if self.data.name == "crops" and OBJECTIVES[part.name].input_kind != "organs":
            return "scans"
        return self.data.name

    def whole_images(self) -> Any:
        """The settings of whole scans or radiographs; None where there are crops alone."""
        return self.data.scans if isinstance(self.data, CropDataSettings) else self.data

    @property
    def needs_epochs(self) -> bool:
        """Some length of it is known only once it is known how long an epoch is."""
        lengths = (*dict(self.optim).values(), *dict(self.loop).values())
        return any(isinstance(value, Duration) for value in lengths)

    def timed(self, epoch: int) -> PretrainConfig:
        """The same with all lengths in steps.

        Args:
            epoch: steps of an epoch.
        """
        steps = in_steps(self.loop.steps, 0, epoch)
        loop = self.loop.model_copy(update={"steps": steps})
        return self.model_copy(update={"loop": timed(loop, steps, epoch), "optim": timed(self.optim, steps, epoch)})

    def unread(self) -> Mapping[str, str]:
        """Data settings that no part of the objective reads."""
        parts, needs = parts_of(self.objective).values(), needs_of(self.objective)
        kinds = {OBJECTIVES[part.name].input_kind for part in parts}
        found: dict[str, str] = {}
        if self.model.encoder.train.name == "frozen":
            found |= dict.fromkeys(("optim.encoder_frozen", "optim.patch_rate"), "model.encoder.train is frozen")
        if "organs" not in kinds:
            found["data.dictionary_wording"] = "the objective reads no organs"
        if kinds == {"images"}:
            names = [name for name in _OF_TEXTS if hasattr(self.data, name)]
            found |= dict.fromkeys((f"data.{name}" for name in names), "the objective reads images alone")
        if all(part.dictionary_negatives in ("none", "batch") for part in parts):
            names = ("data.negatives", "data.report_wording")
            found |= dict.fromkeys(names, "the objective compares with no negatives of the dictionary")
        hides = all(part.name.startswith(("ecamp", "mim")) for part in parts)
        if hides and hasattr(self.model.encoder, "patch_dropout"):
            found["model.encoder.patch_dropout"] = "the objective hides patches itself"
        aligned = any(OBJECTIVES[part.name].aligned for part in parts)
        if self.data.name == "cxr" and "organs" not in kinds and not aligned:
            found["data.organs"] = "the objective reads no organs and is not validated"
        if self.data.name == "crops" and kinds == {"organs"}:
            found["data.scans"] = "no part of the objective reads whole scans"
        if self.whole_images() is None or "data.scans" in found or self.data.name == "tokens":
            return found
        whole = "data.scans" if self.data.name == "crops" else "data"
        if self.data.name != "cxr" and "pairs" not in kinds:
            found[f"{whole}.text"] = "no part of the objective takes a scan's report as one text"
        if not any(need.views for need in needs):
            found[f"{whole}.copies"] = "the objective compares no views"
        if not any(need.tag_labels for need in needs):
            found[f"{whole}.tags"] = "the objective learns no tags"
        return found

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Objective, data and model suit each other.

        Raises:
            ConfigError: code ``objective``.
        """
        kinds = {self.reads(part) for part in parts_of(self.objective).values()}
        if self.data.name not in kinds:
            raise ConfigError(
                "The objective reads whole images, and data.name is crops.",
                code="objective",
                fix="Set data.name to scans or cxr.",
            )
        if "scans" in kinds and self.whole_images() is None:
            raise ConfigError(
                "A part of the objective reads whole scans, and there are crops alone.",
                code="objective",
                fix="Set data.scans (input.grid, batch).",
            )
        if self.data.name == "tokens":
            self._check_tokens()
        if self.loop.compares and self.loop.score == "loss" and self.reads_organs:
            raise ConfigError(
                "loop.score is loss, and the objective reads organs, of which answers are validated.",
                code="objective",
                fix="Set loop.score to auroc.",
            )
        self.complete_model()
        return self

    def _check_tokens(self) -> None:
        """Cached tokens are of a frozen encoder, of one view of whole scans."""
        kinds = {OBJECTIVES[part.name].input_kind for part in parts_of(self.objective).values()}
        if kinds - {"organs", "pairs"}:
            raise ConfigError(
                "The objective reads reports with views of images, and data.name is tokens.",
                code="objective",
                fix="Set data.name to scans, or take an objective such as organ_text.",
            )
        if self.model.encoder.train.name != "frozen":
            raise ConfigError(
                f"model.encoder.train is {self.model.encoder.train.name}, and cached tokens are of a frozen encoder.",
                code="objective",
                fix="Set model.encoder.train to frozen, or data.name to scans.",
            )

    @property
    def reads_organs(self) -> bool:
        """A part of the objective reads organs with a text of each."""
        return any(OBJECTIVES[part.name].input_kind == "organs" for part in parts_of(self.objective).values())

    def complete_model(self) -> DualEncoderSettings:
        """The model's settings with what the objective needs.

        Raises:
            ConfigError: code ``objective``: the model lacks what the objective trains or has what nothing trains, or
                the encoder is not for this kind of image.
        """
        needs, dims = needs_of(self.objective), self.data.spatial_dims
        if self.model.encoder.spatial_dims != dims:
            raise ConfigError(
                f"The data are {self.data.name}, and the encoder sees images of {self.model.encoder.spatial_dims} "
                "dimensions.",
                code="objective",
                fix=f"Set model.encoder.spatial_dims to {dims}.",
            )
        if any(need.patches for need in needs) and self.model.encoder.name != "vit":
            raise ConfigError(
                f"The objective hides patches from a transformer over patches, and model.encoder is "
                f"{self.model.encoder.name}.",
                code="objective",
                fix="Set model.encoder.name to vit, or take an objective for any encoder (objective.name: dino).",
            )
        change = {
            "regions": self._region_reader(),
            "image": self._part("image", any(need.image for need in needs), PooledHeadSettings()),
            "resampler": self._part("resampler", any(need.resampler for need in needs), ResamplerSettings()),
            "tags": self._part("tags", any(need.tags for need in needs), TagSettings()),
        }
        return self.model.model_copy(update={**change, "encoder": self._encoder()})

    def _encoder(self) -> EncoderSettings:
        """The encoder's settings; of a released one with the channel of the data that it sees."""
        encoder = self.model.encoder
        if not isinstance(encoder, ReleasedSettings):
            return encoder
        if isinstance(self.data, CxrDataSettings):
            if (self.data.mean, self.data.std) == (0, 1):
                return encoder
            raise ConfigError(
                f"model.encoder: {encoder.name} takes its own mean and deviation from grey values between 0 and 1.",
                code="objective",
                fix="Set data.mean=0 data.std=1.",
            )
        windows = self.data.crops.windows_hu if isinstance(self.data, CropDataSettings) else self.data.input.windows_hu
        try:
            return encoder.model_copy(update={"channel": channel_of(encoder.name, windows)})
        except ValueError as error:
            low, high = released_window(encoder.name)
            at = "data.crops" if isinstance(self.data, CropDataSettings) else "data.input"
            raise ConfigError(
                f"model.encoder: {error}.", code="objective", fix=f"Set {at}.windows_hu to [[{low:g}, {high:g}]]."
            ) from error

    def _part(self, name: str, needed: bool, default: S) -> S | None:
        """A part of the model: as it is set, or the default where it is needed."""
        found = getattr(self.model, name)
        if found is not None and not needed:
            raise ConfigError(
                f"The objective trains no model.{name}.", code="objective", fix=f"Set model.{name} to null."
            )
        return default if found is None and needed else found

    def _region_reader(self) -> RegionReaderSettings | None:
        """How the model reads organs or regions; None where no objective reads them."""
        reading = [need for need in needs_of(self.objective) if need.readers]
        needed = any(not need.optional for need in reading)
        default = CropReaderSettings() if needed and self.data.name == "crops" else None
        if not reading:
            unused: RegionReaderSettings = CropReaderSettings()
            return self._part("regions", False, unused)
        if self.model.regions is None and not needed:
            return None
        found = self.model.regions or default
        offered = set(REGION_READERS).intersection(_READERS[self.data.name], *(need.readers for need in reading))
        if found is None or found.name not in offered:
            raise ConfigError(
                f"The objective reads organs of {self.data.name}, and model.regions is {found and found.name}.",
                code="objective",
                fix=f"Set model.regions.name to one of: {', '.join(filter(offered.__contains__, REGION_READERS))}.",
            )
        return found
