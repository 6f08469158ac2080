"""ECAMP (Wang et al., MedIA 2025, arXiv 2312.13316): hidden patches, a sharper window and hidden words, in 2D and 3D.

A masked picture is decoded, what was decoded is sharpened to twice the resolution inside the window that the text
looks at, and the hidden words of the report, with a short sentence for each entity put in, are filled in by a BERT that
reads the patches that were seen. No contrast: the image encoder is what is released.

Differences from the publication: positions of the encoder are learned, it has no class token (the global token is the
mean of the patches, as published); entity sentences are distilled by our parser, or a model of your choice; windows
come from the model in training (``models.masked.spread_attention``).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from ctglip.data.collate import images_of
from ctglip.data.masking import EntityMasker, MaskedWords, MaskingSettings
from ctglip.data.samples import Batch, OrganSample, StudySample
from ctglip.errors import ConfigError
from ctglip.features.text_bank import TextBank
from ctglip.losses.masked import (
    masked_pixel,
    patchify,
    select_window,
    unpatchify,
    weighted_mlm,
    window_error,
    window_mask,
)
from ctglip.models.dual_encoder import DualEncoder
from ctglip.models.encoders.vit import ViTEncoder, ViTSettings
from ctglip.models.fusion import ReportBert, ReportBertSettings
from ctglip.models.masked import (
    MaskedDecoder,
    MaskedImageSettings,
    SuperResolutionHead,
    draw_patches,
    halved,
    hidden_patches,
    spread_attention,
)
from ctglip.objectives.base import (
    START,
    BuildContext,
    Features,
    Losses,
    ModelNeeds,
    Objective,
    ObjectiveSettings,
    StepContext,
    StepReport,
)
from ctglip.objectives.texts import Texts
from ctglip.reports.entities import EntityContext, EntitySettings, entity_templates, entity_words, with_context
from ctglip.reports.released_sentences import read_released
from ctglip.reports.wordpiece import WordPieces, WordPieceSettings, pieces_for


class EcampSettings(ObjectiveSettings):
    """Terms and their parts, for whole radiographs or scans with their reports; the published numbers.

    Attributes:
        image_weight, sharp_weight, word_weight: of the hidden patches, the sharpened window, the hidden words. Without
            the window samples are seen at their own resolution, else at half of it.
        denominator: errors are means over what was hidden (or inside the window), or sums divided by ``all`` pixels
            and all pieces of a text, padding too, where pieces that can be seen count as well (as released).
        image: masking, decoder, window.
        bert: the language model.
        pieces: its vocabulary.
        entities: which sentences are put in.
        context: chance that they are.
        masking: how words are hidden.
        gather: denominators count all ranks.
    """

    name: Literal["ecamp"] = "ecamp"  # pyright: ignore[reportIncompatibleVariableOverride]
    image_weight: float = Field(default=1.0, ge=0)
    sharp_weight: float = Field(default=1.0, ge=0)
    word_weight: float = Field(default=1.0, ge=0)
    denominator: Literal["hidden", "all"] = "hidden"
    image: MaskedImageSettings = MaskedImageSettings()
    bert: ReportBertSettings = ReportBertSettings()
    pieces: WordPieceSettings = WordPieceSettings()
    entities: EntitySettings = EntitySettings()
    context: float = Field(default=0.8, ge=0, le=1)
    masking: MaskingSettings = MaskingSettings()
    gather: bool = True

    @property
    def scale(self) -> int:
        """How many times finer samples are than what the encoder is shown, and the released model will be."""
        return 2 if self.sharp_weight > 0 else 1


class EcampOrganSettings(EcampSettings):
    """The same for crops of organs with what is said of each."""

    name: Literal["ecamp_organs"] = "ecamp_organs"  # pyright: ignore[reportIncompatibleVariableOverride]

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        return dict.fromkeys(("entities.released", "entities.cohort"), "released sentences are of whole reports")


@dataclass(frozen=True)
class MaskedBatch(Batch):
    """B pictures and reports with holes. A picture without a report has a text of nothing but its beginning.

    Attributes:
        image: at the resolution of the sharpened picture.
        visible_patches: numbers of the patches that the encoder sees.
        words: true pieces.
        input_ids: pieces with [MASK] for hidden ones.
        hidden, weights, entity, focus: of the pieces; see ``data.masking.MaskedWords``.
    """

    image: Float[Tensor, "b c *s"]
    visible_patches: Int[Tensor, "b n"]
    words: Int[Tensor, "b t"]
    input_ids: Int[Tensor, "b t"]
    hidden: Bool[Tensor, "b t"]
    weights: Float[Tensor, "b t"]
    entity: Bool[Tensor, "b t"]
    focus: Bool[Tensor, "b t"]


class Ecamp(Objective):
    """Masked modelling of pictures and reports; of several views the first is taken.

    Args:
        model: its image encoder, a ViT, is what is trained.
        bank: gives the texts of samples; none is embedded.
        pieces: the vocabulary.
        settings: terms.
        folder: where entity sentences are kept.

    Raises:
        ConfigError: code ``objective``: another encoder than a ViT.
    """

    Settings = EcampSettings
    input_kind = "reports"
    batch_coupled = False
    aligned = False

    @classmethod
    def needs(cls, settings: EcampSettings) -> ModelNeeds:
        """What it needs of the model."""
        return ModelNeeds(image=True, scale=settings.scale)

    @classmethod
    def build(cls, context: BuildContext, settings: EcampSettings) -> Ecamp:
        """The objective of some settings."""
        words = (*context.texts, *entity_templates(settings.entities.entities))
        pieces = pieces_for(settings.pieces, words, context.run / "wordpiece")
        return cls(context.model, context.bank, pieces, settings, context.run / "entities")

    def __init__(
        self,
        model: DualEncoder,
        bank: TextBank,
        pieces: WordPieces,
        settings: EcampSettings | None = None,
        folder: Path | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(model.encoder, ViTEncoder):
            raise ConfigError(
                "ECAMP hides patches from a transformer over patches.",
                code="objective",
                fix="Set model.encoder.name to vit.",
            )
        self.settings = settings or EcampSettings()
        self.encoder = model.encoder
        self.channels = model.inputs.in_channels
        self.texts = Texts(bank)
        self.pieces = pieces
        entities = self.settings.entities
        self.context = EntityContext(entities, folder)
        self.released = None if entities.released is None else read_released(entities.released, entities.cohort)
        self.masker = EntityMasker(pieces, entity_words(self.settings.entities.entities), self.settings.masking)
        decoding, vit = self.settings.image, self.encoder.settings
        assert isinstance(vit, ViTSettings)
        if not isinstance(vit.patch, int):
            raise ConfigError("ECAMP's patches have one edge.", code="objective", fix="Set model.encoder.patch to one.")
        self.patch, self.dims = vit.patch, vit.spatial_dims
        self.decoder = MaskedDecoder(decoding, vit.dim, vit.sides("patch"), self.channels)
        self.super_resolution = None
        if self.settings.sharp_weight > 0:
            self.super_resolution = SuperResolutionHead(self.channels, vit.spatial_dims, decoding.final_relu)
        self.bert = None
        if self.settings.word_weight > 0:
            self.bert = ReportBert(self.settings.bert, len(pieces), pieces.length, pieces.pad, vit.dim)

    # --- batches

    def collate(
        self, samples: Sequence[OrganSample] | Sequence[StudySample], context: StepContext = START
    ) -> MaskedBatch:
        """Hide patches and words: drawn for each sample from the step and its own name, so that the number
        of ranks changes nothing."""
        ids = [sample.report if isinstance(sample, StudySample) else sample.text_id for sample in samples]
        generators = [context.rng(zlib.crc32(_name(sample).encode())) for sample in samples]
        image = images_of(samples)
        grid = self._grid(tuple(image.shape[2:]))
        ratio = self.settings.image.ratio
        visible_patches = [torch.from_numpy(draw_patches(prod(grid), ratio, rng)) for rng in generators]
        words, found = self._words(ids, generators, [_study(sample) for sample in samples])
        number, used = torch.tensor(ids), slice(self._length(words))
        return MaskedBatch(
            text_id=number,
            text_key=number,
            negative_ids=number.new_zeros(len(ids), 0),
            pool_ids=torch.zeros(1, dtype=torch.long),
            pool=torch.zeros(1, 0),
            image=image.float(),
            visible_patches=torch.stack(visible_patches),
            words=_stacked([one[used] for one in words]),
            input_ids=_stacked([one.ids[used] for one in found]),
            hidden=_stacked([one.hidden[used] for one in found]),
            weights=_stacked([one.weights[used] for one in found]),
            entity=_stacked([one.entity[used] for one in found]),
            focus=_stacked([one.focus[used] for one in found]),
        )

    def _length(self, words: Sequence[np.ndarray]) -> int:
        """Pieces of a batch's longest text: what follows is padding, which counts under ``denominator: all`` alone."""
        if self.settings.denominator == "all":
            return self.pieces.length
        return max(int((one != self.pieces.pad).sum()) for one in words)

    def _words(
        self, ids: Sequence[int], generators: Sequence[np.random.Generator], names: Sequence[str]
    ) -> tuple[list[np.ndarray], list[MaskedWords]]:
        """Each text with its entities' sentences put in, and with its holes."""
        known = [number for number in ids if number >= 0]
        text_of = dict(zip(known, self.texts.bank.texts(torch.tensor(known, dtype=torch.long)), strict=True))
        if self.released is None:
            distilled = dict(zip(text_of, self.context(list(text_of.values())), strict=True))
            sentences = [list(distilled.get(number, {}).values()) for number in ids]
        else:
            sentences = [[self.released.get(name, "")] for name in names]
        words, found = [], []
        for number, rng, several in zip(ids, generators, sentences, strict=True):
            text = with_context(text_of[number], several, rng, self.settings.context) if number >= 0 else ""
            cut = self.pieces(text)
            words.append(cut.ids)
            found.append(self.masker(cut, rng))
        return words, found

    def _grid(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        step = self.patch * self.settings.scale
        if any(side % step for side in shape):
            raise ConfigError(
                f"Pictures of {shape} do not divide into patches of {step} "
                f"({self.patch} at 1/{self.settings.scale} of their size).",
                code="objective",
                fix="Choose sides that are multiples of it.",
            )
        return tuple(side // step for side in shape)

    # --- networks

    def encode(self, batch: MaskedBatch) -> Features:
        """``prediction``, ``target [B, N, F]``, ``covered [B, N]``; ``sharp``, ``fine``, ``corner`` of the window;
        ``state [B, T, D]`` of the pieces; and what they are compared with."""
        image, channels = batch.image, batch.image.shape[1]
        grid = self._grid(tuple(image.shape[2:]))
        coarse = halved(image) if self.super_resolution else image
        tokens = self.encoder.visible(self._filled(coarse), batch.visible_patches)
        decoded = unpatchify(self.decoder(tokens, batch.visible_patches, grid), self.patch, grid)
        features: Features = {
            "prediction": patchify(decoded[:, :channels], self.patch),
            "target": patchify(coarse, self.patch),
            "covered": hidden_patches(batch.visible_patches, prod(grid)),
        }
        where = None
        if self.bert is not None:
            state, where = self.bert(batch.input_ids, tokens)
            names = ("words", "hidden", "weights", "entity")
            features |= {"state": state, **{name: getattr(batch, name) for name in names}}
        if self.super_resolution is not None:
            sharp = self.super_resolution(decoded)[:, :channels]
            features |= {"sharp": sharp, "fine": image, "corner": self._corner(batch, where, grid)}
        return features

    @torch.no_grad()
    def _corner(self, batch: MaskedBatch, where: Tensor | None, grid: tuple[int, ...]) -> Int[Tensor, "b d"]:
        """The window that holds most of what entities and their descriptors look at (all pieces, where there is none);
        the first corner for a model without words."""
        if where is None:
            return batch.visible_patches.new_zeros(len(batch), len(grid))
        there = batch.input_ids != self.pieces.pad
        looking = torch.where(batch.focus.any(1, keepdim=True), batch.focus, there).to(where.dtype)
        attention = (where * looking[..., None]).sum(1) / looking.sum(1, keepdim=True)
        return select_window(spread_attention(attention, batch.visible_patches, grid), self._window(grid))

    def _window(self, grid: tuple[int, ...]) -> int:
        return max(round(self.settings.image.window * min(grid)), 1)

    def _filled(self, image: Tensor) -> Tensor:
        """Channels that the encoder knows and this picture has not are zero."""
        missing = self.channels - image.shape[1]
        return torch.cat([image, image.new_zeros(len(image), missing, *image.shape[2:])], dim=1) if missing else image

    # --- losses

    def compute(self, features: Features, context: StepContext = START) -> tuple[Losses, StepReport]:  # noqa: ARG002
        """Losses ``image``, ``sharp``, ``words``; report: mean squared errors, shares of hidden words and of hidden
        entities that are filled in rightly, words hidden in a text."""
        settings, every = self.settings, self.settings.denominator == "all"
        pictures = (features["prediction"], features["target"], features["covered"])
        error = masked_pixel(*pictures, denominator="all" if every else "masked", gather=settings.gather)
        losses = {"image": settings.image_weight * error}
        report = {"image_error": float(masked_pixel(*pictures).detach())}
        if self.super_resolution is not None:
            sides = features["fine"].shape[2:]
            grid = self._grid(tuple(sides))
            window = window_mask(grid, features["corner"], self._window(grid), self.patch * self.settings.scale)
            pictures = (features["sharp"], features["fine"], window)
            error = window_error(*pictures, denominator="all" if every else "window", gather=settings.gather)
            losses["sharp"] = settings.sharp_weight * error
            report["sharp_error"] = float(window_error(*pictures).detach())
        if self.bert is not None:
            loss, numbers = self._filled_in(self.bert, features, every)
            losses["words"] = settings.word_weight * loss
            report |= numbers
        return losses, report

    def _filled_in(self, bert: ReportBert, features: Features, every: bool) -> tuple[Tensor, StepReport]:
        hidden, words, weights = features["hidden"], features["words"], features["weights"]
        gather = self.settings.gather
        if every:
            logits = bert.words(features["state"])
            loss = weighted_mlm(logits, words, weights, gather=gather)
            logits = logits[hidden]
        else:
            logits = bert.words(features["state"][hidden])
            counted = (words[hidden][None], weights[hidden][None])
            loss = weighted_mlm(logits[None], *counted, denominator="masked", gather=gather)
        predicted = logits.detach().argmax(-1)
        right, entity = (predicted == words[hidden]).float(), features["entity"][hidden]
        nan = float("nan")
        return loss, {
            "word_accuracy": float(right.mean()) if len(right) else nan,
            "entity_accuracy": float(right[entity].mean()) if bool(entity.any()) else nan,
            "words_hidden": float(hidden.float().sum(1).mean()),
        }


class EcampOrgans(Ecamp):
    """``Ecamp`` of crops."""

    Settings = EcampOrganSettings
    input_kind = "organs"

    @classmethod
    def needs(cls, settings: EcampSettings) -> ModelNeeds:
        """What it needs of the model."""
        return ModelNeeds(readers=("crop",), scale=settings.scale)


def _name(sample: OrganSample | StudySample) -> str:
    """What tells a sample from the others of its batch, whatever the ranks."""
    return sample.study_id if isinstance(sample, StudySample) else f"{sample.study_index}/{sample.organ_id}"


def _study(sample: OrganSample | StudySample) -> str:
    """The study of a whole image; nothing for crops, which released sentences do not name."""
    return sample.study_id if isinstance(sample, StudySample) else ""


def _stacked(values: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(values))
