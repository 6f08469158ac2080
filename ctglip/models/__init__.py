"""Models and their files: image encoders, the text encoder, the model that brings both together, and the release, all
that a trained model needs on another machine (``load_release``; ``HubModel`` for Hugging Face's hub, ``export_onnx``
for other runtimes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctglip.lazy import public_names

if TYPE_CHECKING:
    from ctglip.models.card import write_card as write_card
    from ctglip.models.dual_encoder import DualEncoder as DualEncoder
    from ctglip.models.dual_encoder import DualEncoderSettings as DualEncoderSettings
    from ctglip.models.encoders import build_encoder as build_encoder
    from ctglip.models.encoders.base import Encoder as Encoder
    from ctglip.models.encoders.base import VisionFeatures as VisionFeatures
    from ctglip.models.hub import HubModel as HubModel
    from ctglip.models.onnx import export_onnx as export_onnx
    from ctglip.models.release import Release as Release
    from ctglip.models.release import load_release as load_release
    from ctglip.models.release import save_release as save_release
    from ctglip.models.text import TextEncoder as TextEncoder
    from ctglip.models.text import TextEncoderSettings as TextEncoderSettings
    from ctglip.models.text import load_text_encoder as load_text_encoder

__getattr__, __dir__ = public_names(__name__)
