"""Fine-tuning on labels of one's own: probes, heads, low-rank and full updates, and segmentation of radiographs.
``Tuned(folder).predict(store, study_ids)`` answers with what was tuned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctglip.lazy import public_names

if TYPE_CHECKING:
    from ctglip.tasks.embed import Embedded as Embedded
    from ctglip.tasks.release import Tuned as Tuned
    from ctglip.tasks.results import FinetuneResults as FinetuneResults
    from ctglip.tasks.settings import FinetuneConfig as FinetuneConfig
    from ctglip.tasks.tuning import finetune as finetune

__getattr__, __dir__ = public_names(__name__)
