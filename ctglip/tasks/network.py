"""The network of a classification: a model that reads organs, and a head on what it reads."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctglip.inference.encoding import Inputs, read_organs
from ctglip.inference.scoring import Scorer
from ctglip.models.dual_encoder import DualEncoder
from ctglip.models.lora import add_lora, merged
from ctglip.models.release import Release
from ctglip.tasks.base import Initialization
from ctglip.tasks.head import BagHead, HeadOutput
from ctglip.tasks.settings import ClassificationConfig, OrganTaskConfig, TuningMode
from ctglip.tasks.targets import Target

FeatureSpace = Literal["raw", "shared"]
FEATURES, BAG_ORGAN, BAG_STUDY = "features", "bag_organ", "bag_study"
"""Of inputs: cached features; the number of the organ of each instance, and the row of its study in the batch."""
FROZEN: frozenset[TuningMode] = frozenset({"probe", "head"})


class ClassificationNetwork(nn.Module):
    """A model that reads organs, and a head on what it reads.

    Args:
        model: reads organs.
        head: answers.
        space: the head reads ``raw`` features, or the model's ``shared`` space, where texts are too.
        global_image: the model reads whole images, no organs.
    """

    def __init__(self, model: DualEncoder, head: BagHead, space: FeatureSpace, global_image: bool) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.space = space
        self.global_image = global_image

    def read(self, inputs: Inputs) -> Float[Tensor, "n d"]:
        """Raw features: those that are cached, or of images."""
        return inputs[FEATURES] if FEATURES in inputs else read_organs(self.model, inputs)

    def project(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        """What the head reads."""
        if self.space == "raw":
            return features
        if self.global_image:
            assert self.model.image_head is not None
            return self.model.image_head(features)
        return self.model.diagnosis(features)

    def answer(self, inputs: Inputs, studies: int) -> HeadOutput:
        """Answers about so many studies, see ``BagHead``; ``bag_organ`` and ``bag_study`` say what was read."""
        images = {name: value for name, value in inputs.items() if name not in (BAG_ORGAN, BAG_STUDY)}
        return self.head(self.project(self.read(images)), inputs[BAG_ORGAN], inputs[BAG_STUDY], studies)

    def forward(self, inputs: Inputs, studies: int) -> Float[Tensor, "s c"]:
        """The logits."""
        return self.answer(inputs, studies).logits


def build_network(
    initialization: Initialization, targets: Sequence[Target], organs: Sequence[str], config: ClassificationConfig
) -> ClassificationNetwork:
    """The network before its first step, drawn with torch's generator; what is trained is marked.

    Args:
        initialization: model and mode.
        targets: the columns.
        organs: names by number.
        config: the head.
    """
    model = initial_model(initialization)
    global_image = reads_global_image(initialization.release, config)
    shared = initialization.mode != "probe" and not initialization.random and config.head.start == "text"
    shared = shared and speaks(initialization.release, global_image)
    space: FeatureSpace = "shared" if shared else "raw"
    dim = model.settings.embedding_dim if shared else raw_width(model, global_image)
    head = BagHead(dim, targets, organs, config.head.hidden, config.head.dropout)
    network = ClassificationNetwork(model, head, space, global_image)
    if shared:
        start_from_text(head, targets, Scorer(initialization.release))
    answering = "image_head" if global_image else "diagnosis_head"
    mark_trainable(model, initialization.mode, config.fit.rank, answering if shared else None)
    return network.to(initialization.device)


def initial_model(initialization: Initialization) -> DualEncoder:
    """A model of one's own to train: a copy of the release's, or one with random weights."""
    if not initialization.random:
        return copy.deepcopy(initialization.release.model)
    return DualEncoder(initialization.release.model.settings, initialization.release.model.inputs)


def reads_global_image(release: Release, config: OrganTaskConfig) -> bool:
    """Whether images are read as a whole."""
    return config.read == "whole" or release.model.region_reader is None


def speaks(release: Release, global_image: bool) -> bool:
    """Whether what is read can be compared with texts."""
    return release.aligned and (release.model.image_head is not None or not global_image)


def raw_width(model: DualEncoder, global_image: bool) -> int:
    """Width of what ``read_organs`` gives."""
    return model.image_dim if global_image else model.feature_dim


@torch.no_grad()
def start_from_text(head: BagHead, targets: Sequence[Target], scorer: Scorer) -> None:
    """Set the classifiers of known abnormalities to the model's zero-shot answer.

    The weight is the direction from the negative to the positive prompts, times the calibrated scale, and the bias the
    calibrated one. So a column of one organ starts with exactly the zero-shot probability; one of several organs starts
    with the mean over its organs' directions. Unknown abnormalities and multi-class columns start at zero.
    """
    dim = head.weight.shape[1]
    head.std.fill_(1 / math.sqrt(dim))
    start = 0
    for target in targets:
        if target.abnormality is not None and not target.classes:
            axes = scorer.differences(np.eye(dim, dtype=np.float32), target.organ_pairs).mean(1)
            weight = torch.from_numpy(scorer.calibration.scale * axes).to(head.weight)
            head.weight[start] = weight * head.std
            head.bias[start] = scorer.calibration.bias
        start += target.width


def mark_trainable(model: DualEncoder, mode: TuningMode, rank: int, head: str | None = None) -> None:
    """Say which parameters of a model learn: only those that what it is tuned for depends on, and of these what the
    mode trains.

    Args:
        rank: of low-rank updates.
        head: the one of its heads that is used; None: features before all heads.
    """
    model.requires_grad_(mode == "full")
    if mode == "lora":
        add_lora(model.encoder, rank)
    for name in ("anatomy_head", "text_head", "diagnosis_head", "image_head"):
        part = getattr(model, name, None)
        if part is not None:
            part.requires_grad_(name == head and mode != "probe")


def tuned_release(initialization: Initialization, model: DualEncoder) -> Release:
    """The initialization's release with the model as it was trained; low-rank updates are folded in.

    How far organs lie from those of training was measured with the model as it was: one that moved is not measured.
    """
    release = copy.copy(initialization.release)
    if initialization.mode not in FROZEN:
        release.familiarity = None
    release.model = merged(model).cpu().eval().requires_grad_(True)  # pyright: ignore[reportAttributeAccessIssue]
    return release
