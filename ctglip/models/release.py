"""The ``model/`` folder: all that a trained model needs to answer on another machine. JSON and safetensors only."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ctglip.models.text import TextEncoder, TextEncoderSettings
from ctglip.models.towers import OrganTextModel

FORMAT_VERSION = 1


@dataclass
class Release:
    """A trained model with everything around it.

    Attributes:
        model: the weights, in evaluation mode after loading.
        organs: the organs of the anatomy prompts, in the order of ``organ_id``.
        recipe: the volume recipe as plain data.
        crops: the crop settings as plain data.
        organ_dictionary, abnormality_dictionary: folders of the YAML files (copied on saving).
        text_settings: which text encoder.
        text_hash: its hash: embeddings made by another encoder are refused.
        prompts: text -> raw text embedding, for all prompts of the dictionaries.
        calibration: thresholds and temperatures as plain data.
        provenance: versions, seeds, what it was trained on, as plain data.
    """

    model: OrganTextModel
    organs: tuple[str, ...]
    recipe: dict[str, Any]
    crops: dict[str, Any]
    organ_dictionary: Path
    abnormality_dictionary: Path
    text_settings: TextEncoderSettings
    text_hash: str
    prompts: dict[str, Tensor] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    text_encoder: TextEncoder | None = None

    def embed(self, texts: list[str]) -> Tensor:
        """Raw text embeddings ``[N, T]``: stored prompts as they are, the rest through the text encoder (loaded
        when it is first needed).

        Raises:
            ModelError: code ``text_encoder`` when the encoder is needed and cannot be had, or is another one.
        """
        raise NotImplementedError


def save_release(folder: Path, release: Release, reference_text_encoder: bool = False) -> Path:
    """Write ``folder`` (by rename): config.json, model.safetensors, text_encoder/, organ_dictionary/,
    abnormality_dictionary/, prompts.safetensors, prompts.json, calibration.json.

    Args:
        folder: the ``model/`` folder to write.
        release: what to write.
        reference_text_encoder: store the text encoder's name and hash in place of its weights.
    """
    raise NotImplementedError


def load_release(folder: Path) -> Release:
    """Read a ``model/`` folder, or a run folder that holds one. Needs no network.

    Raises:
        ModelError: missing, incomplete, or of another format version.
    """
    raise NotImplementedError
