"""What a pretraining run is made of: one file of settings, kept in the run as ``config.resolved.yaml``."""

from __future__ import annotations

from typing import Literal

from ctglip.config import Settings
from ctglip.data.cxr import CxrDataSettings
from ctglip.data.organs import DataSettings
from ctglip.data.sampling import SamplingSettings
from ctglip.data.scans import ScanDataSettings
from ctglip.models.dual_encoder import DualEncoderSettings
from ctglip.models.text import TextEncoderSettings
from ctglip.objectives.registry import AnyObjectiveSettings
from ctglip.objectives.text_contrast import OrganTextSettings
from ctglip.training.optim import OptimSettings
from ctglip.training.trainer import LoopSettings


class PretrainConfig(Settings):
    """One pretraining run.

    Attributes:
        seed: of weights, batches, texts and augmentations.
        initial: start from the weights of this run or model folder rather than from chance (``model.encoder.weights``
            names weights for the image encoder alone).
        data: organs, texts and crops.
        sampling: batches of crops.
        scans: whole scans and their batches, for objectives that read them.
        cxr: radiographs and their batches, for stores of radiographs.
        model: a part that is null is there where the objective needs it (``regions``: crops of scans); one that is set
            and that nothing trains is an error.
        objective: one of those in ``objectives.registry``, or a ``mixture`` of them, by its ``name``.
    """

    kind: Literal["pretrain"] = "pretrain"
    seed: int = 0
    initial: str | None = None
    data: DataSettings = DataSettings()
    sampling: SamplingSettings = SamplingSettings()
    scans: ScanDataSettings = ScanDataSettings()
    cxr: CxrDataSettings = CxrDataSettings()
    text: TextEncoderSettings = TextEncoderSettings()
    model: DualEncoderSettings = DualEncoderSettings()
    objective: AnyObjectiveSettings = OrganTextSettings()
    optim: OptimSettings = OptimSettings()
    loop: LoopSettings = LoopSettings()
