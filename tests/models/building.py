"""A dual encoder from what a test changes: its settings, and what is known of its inputs."""

from __future__ import annotations

from typing import Any

from ctglip.models.dual_encoder import DualEncoder, DualEncoderSettings
from ctglip.models.region_readers import ModelInputs

LABELS = ((1,), (2,), (3,))
"""Of three organs, one label each."""


def dual_encoder(**parts: Any) -> DualEncoder:
    """``parts`` are fields of ``DualEncoderSettings`` and ``ModelInputs``; ``tag_names`` are the tags of the latter."""
    inputs = {name: parts.pop(name) for name in list(parts) if name in ModelInputs.model_fields and name != "tags"}
    inputs["tags"] = parts.pop("tag_names", ())
    return DualEncoder(DualEncoderSettings.model_validate(parts), ModelInputs(**inputs))
