"""Fine-tuning on labels of one's own: probes, heads, low-rank and full updates, and segmentation of radiographs.
``Tuned(folder).predict(store, study_ids)`` answers with what was tuned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctglip.lazy import public_names

if TYPE_CHECKING:
    from ctglip.finetune.embed import Embedded as Embedded
    from ctglip.finetune.release import Tuned as Tuned
    from ctglip.finetune.results import FinetuneResults as FinetuneResults
    from ctglip.finetune.run import finetune as finetune
    from ctglip.finetune.settings import FinetuneConfig as FinetuneConfig

__getattr__, __dir__ = public_names(__name__)
