"""Where a fine-tuning of scans begins besides at a run: at weights that others released, or at nothing.

``NAME=WEIGHTS`` names an encoder and its weights (a file, or the folder of a trained nnU-Net); ``NAME`` alone draws
them. The model that comes of it reads whole scans, and knows no texts.
"""

from __future__ import annotations

import difflib
import math
from pathlib import Path

from ctglip.config import load_settings
from ctglip.data.scans import ScanSettings
from ctglip.encoder_cards import encoder_card
from ctglip.errors import ConfigError, StoreError
from ctglip.models.card import started_from
from ctglip.models.dual_encoder import DualEncoder, DualEncoderSettings
from ctglip.models.encoders import ENCODERS, RELEASED, RELEASED_CXR
from ctglip.models.region_readers import ModelInputs
from ctglip.models.release import Release
from ctglip.models.text import TextEncoderSettings
from ctglip.resources import resource
from ctglip.store.tables import Store

_EDGE = 64


def names_encoder(source: str) -> bool:
    """Whether a start is written as ``NAME`` or ``NAME=WEIGHTS`` of an encoder, and is no folder that is there."""
    return not Path(source).exists() and ("=" in source or source in ENCODERS)


def encoder_release(source: str, store: Store) -> Release:
    """A model of whole scans around an encoder, with its weights; it was not trained.

    Args:
        source: ``NAME`` or ``NAME=WEIGHTS``.
        store: of scans; the model is of its recipe.

    Raises:
        ConfigError: no such encoder, with the nearest name, or one of radiographs.
        StoreError: a store of radiographs.
        ModelError: weights that are not there or do not fit.
    """
    name, _, weights = source.partition("=")
    known = [one for one in ENCODERS if one not in RELEASED_CXR]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        raise ConfigError(f"There is no encoder {name!r} of scans.",
                          fix=f"There are {', '.join(near or known)}.")  # fmt: skip
    if store.info.modality != "ct":
        raise StoreError(f"{store.path} is a store of radiographs.", code="other_modality",
                         fix="Name a store of scans, or a run of radiographs.")  # fmt: skip
    scans = ScanSettings()
    if name in RELEASED and (card := encoder_card(name).ct) is not None:
        scans = ScanSettings(windows_hu=(card.window_hu,))
    tree = {"encoder": {"name": name, "weights": weights or None}, "regions": None, "image": None}
    settings = load_settings(DualEncoderSettings, None, (), tree)
    model = DualEncoder(settings, ModelInputs(in_channels=scans.channels, anatomy=False))
    model.encoder.load_pretrained()
    x, y, z = (step * math.ceil(_EDGE / step) for step in model.encoder.strides[-1])
    origin = [
        one for one in started_from(settings.encoder, TextEncoderSettings(), None) if one["part"] != "text encoder"
    ]
    return Release(
        model=model.eval(),
        organs=(),
        recipe=store.info.recipe,
        crops={},
        organ_dictionary=resource("organ_dictionary"),
        abnormality_dictionary=resource("abnormality_dictionary"),
        text_settings=TextEncoderSettings(),
        text_hash="",
        provenance={"kind": "encoder", "started_from": origin},
        scans=scans.model_copy(update={"grid": (x, y, z)}).model_dump(mode="json"),
        aligned=False,
    )
