"""Embeddings of texts under a frozen encoder, computed once and kept on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctglip.lazy import public_names

if TYPE_CHECKING:
    from ctglip.features.text_bank import TextBank as TextBank

__getattr__, __dir__ = public_names(__name__)
