"""How good a model is: ``evaluate`` measures a run on a split of a store, with intervals over patients, controls and
further parts; ``ctglip.evaluation.compare`` compares two runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctglip.lazy import public_names

if TYPE_CHECKING:
    from ctglip.evaluation.bootstrap import draw_patients as draw_patients
    from ctglip.evaluation.bootstrap import weighted_auroc as weighted_auroc
    from ctglip.evaluation.metrics import PairMetrics as PairMetrics
    from ctglip.evaluation.parts.protocol import load_protocol as load_protocol
    from ctglip.evaluation.parts.protocol import protocol_names as protocol_names
    from ctglip.evaluation.results import Results as Results
    from ctglip.evaluation.run import evaluate as evaluate
    from ctglip.evaluation.settings import EvaluateConfig as EvaluateConfig
    from ctglip.types import Interval as Interval

__getattr__, __dir__ = public_names(__name__)
