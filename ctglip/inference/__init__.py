"""A trained model that is asked about CT scans or chest radiographs: a ``Pipeline``.

It answers questions (``query``), shows where answers come from (``heat_maps``), and gives features (``encode_image``,
``encode_text``) and what the encoder reads (``model_input``). ``ctglip.load_model`` makes one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctglip.lazy import public_names

if TYPE_CHECKING:
    from ctglip.inference.answers import Answer as Answer
    from ctglip.inference.answers import Answers as Answers
    from ctglip.inference.encoded_study import EncodedStudy as EncodedStudy
    from ctglip.inference.encoded_study import load_study as load_study
    from ctglip.inference.encoded_study import save_study as save_study
    from ctglip.inference.encoding import OrganEmbeddings as OrganEmbeddings
    from ctglip.inference.feature_cache import organ_features_of as organ_features_of
    from ctglip.inference.heatmap import HeatMap as HeatMap
    from ctglip.inference.model_readers import reader_of as reader_of
    from ctglip.inference.notebook import show as show
    from ctglip.inference.pipeline import Pipeline as Pipeline
    from ctglip.inference.scoring import Calibration as Calibration
    from ctglip.inference.scoring import Scorer as Scorer

__getattr__, __dir__ = public_names(__name__)
