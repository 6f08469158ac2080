"""ctglip: organ-level grounded vision-language pretraining on CT scans and their reports.

``ctglip.load_model(run)`` asks a trained model and gives its features; ``ctglip.Store`` reads a store, and
``ctglip.data`` makes torch datasets of it. Each package shows its public names, and imports them when they are first
asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctglip.lazy import public_names

if TYPE_CHECKING:
    from ctglip.api import load_model as load_model
    from ctglip.data.organs import OrganDataset as OrganDataset
    from ctglip.data.studies import StudyDataset as StudyDataset
    from ctglip.errors import CTGLIPError as CTGLIPError
    from ctglip.evaluation.run import evaluate as evaluate
    from ctglip.models.dual_encoder import DualEncoder as DualEncoder
    from ctglip.models.hub import HubModel as HubModel
    from ctglip.models.release import Release as Release
    from ctglip.models.release import load_release as load_release
    from ctglip.reports.parser import ReportParser as ReportParser
    from ctglip.simulation.study import simulate_study as simulate_study
    from ctglip.store.tables import Store as Store
    from ctglip.tasks.segmentation import OrganSegmenter as OrganSegmenter
    from ctglip.tasks.tuning import finetune as finetune
    from ctglip.training.launch import pretrain as pretrain
    from ctglip.vocabulary.abnormalities import AbnormalityDictionary as AbnormalityDictionary
    from ctglip.vocabulary.abnormalities import load_abnormalities as load_abnormalities
    from ctglip.vocabulary.organs import OrganDictionary as OrganDictionary
    from ctglip.vocabulary.organs import load_organs as load_organs

__version__ = "0.1.0"

__getattr__, __dir__ = public_names(__name__)
