"""The model that is fine-tuned: a tower that reads organs, and a head on what it reads."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ctglip.errors import ModelError
from ctglip.inference.scoring import Scorer
from ctglip.models.dual_encoder import OrganTextModel
from ctglip.models.lora import add_lora, merged
from ctglip.models.release import Release
from ctglip.tasks.head import Answers, BagHead
from ctglip.tasks.settings import FinetuneConfig, Mode
from ctglip.tasks.targets import Task

Space = Literal["raw", "shared"]
Inputs = Tensor | Mapping[str, Tensor]
"""Features that are kept, or what a tower reads."""
WHOLE_INPUTS = {"images", "study_index"}
FROZEN: frozenset[Mode] = frozenset({"probe", "head"})


class Network(nn.Module):
    """A tower and a head.

    Args:
        tower: reads organs.
        head: answers.
        space: the head reads ``raw`` features, or the tower's ``shared`` space, where texts are too.
        whole: the tower reads whole images, no organs.
    """

    def __init__(self, tower: OrganTextModel, head: BagHead, space: Space, whole: bool) -> None:
        super().__init__()
        self.tower = tower
        self.head = head
        self.space = space
        self.whole = whole

    def read(self, inputs: Inputs) -> Float[Tensor, "n d"]:
        """Raw features."""
        return inputs if isinstance(inputs, Tensor) else read_organs(self.tower, inputs)

    def project(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        """What the head reads."""
        if self.space == "raw":
            return features
        return self.tower.whole(features) if self.whole else self.tower.diagnosis(features)

    def forward(self, inputs: Inputs, organ: Int[Tensor, " n"], study: Int[Tensor, " n"], studies: int) -> Answers:
        """Answers about some studies, see ``BagHead``."""
        return self.head(self.project(self.read(inputs)), organ, study, studies)


def read_organs(tower: OrganTextModel, inputs: Mapping[str, Tensor]) -> Float[Tensor, "n d"]:
    """Raw features of organs from crops, scans or radiographs; where no organ is looked for, each gets its whole
    image's."""
    if inputs.keys() == WHOLE_INPUTS:
        return tower.image(inputs["images"])[inputs["study_index"]]
    if "study_index" in inputs:
        return tower.study_features(**inputs)  # pyright: ignore[reportArgumentType]
    return tower.organ_features(**inputs)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Start:
    """Where a network begins.

    Attributes:
        name: in tables and file names.
        release: the model, or the one whose shape a random start takes.
        random: the weights are drawn.
        mode: what is trained.
    """

    name: str
    release: Release
    random: bool
    mode: Mode


def build_network(start: Start, tasks: Sequence[Task], organs: Sequence[str], config: FinetuneConfig) -> Network:
    """The network before its first step, drawn with torch's generator; what is trained is marked.

    Args:
        start: model and mode.
        tasks: the columns.
        organs: names by number.
        config: the head.
    """
    if start.random:
        tower = OrganTextModel(start.release.model.settings)
        tower.encoder.load_pretrained()
    else:
        tower = copy.deepcopy(start.release.model)
    device = next(start.release.model.parameters()).device
    whole = reads_whole(start.release, config)
    shared = start.mode != "probe" and not start.random and config.head.start == "text"
    shared = shared and speaks(start.release, whole)
    space: Space = "shared" if shared else "raw"
    dim = tower.settings.embedding_dim if shared else raw_width(tower, whole)
    head = BagHead(dim, tasks, organs, config.head.hidden, config.head.dropout)
    network = Network(tower, head, space, whole)
    if shared:
        start_from_text(head, tasks, Scorer(start.release))
    _mark(network, start.mode, config.fit.rank)
    return network.to(device)


def reads_whole(release: Release, config: FinetuneConfig) -> bool:
    """Whether images are read as a whole.

    Raises:
        ModelError: code ``no_whole_image``: ``read: whole`` for a model of scans.
    """
    if config.read == "whole" and release.cxr is None:
        raise ModelError(
            "read: whole is for models of radiographs; this one was trained on CT scans.",
            code="no_whole_image",
            fix="Leave read at organs.",
        )
    return config.read == "whole" or release.model.settings.grounding == "none"


def speaks(release: Release, whole: bool) -> bool:
    """Whether what is read can be compared with texts."""
    return release.aligned and (release.model.settings.whole_image or not whole)


def raw_width(tower: OrganTextModel, whole: bool) -> int:
    """Width of what ``read_organs`` gives."""
    if whole:
        return tower.settings.embedding_dim if tower.by_token else tower.encoder.token_dim
    return tower.settings.embedding_dim if tower.settings.project == "token" else tower.settings.dim


@torch.no_grad()
def start_from_text(head: BagHead, tasks: Sequence[Task], scorer: Scorer) -> None:
    """Set the classifiers of known abnormalities to the model's zero-shot answer.

    The weight is the direction from the negative to the positive prompts, times the calibrated scale, and the bias the
    calibrated one. So a column of one organ starts with exactly the zero-shot probability; one of several organs starts
    with the mean over its organs' directions. Unknown abnormalities and multi-class columns start at zero.
    """
    dim = head.weight.shape[1]
    head.spread.fill_(1 / math.sqrt(dim))
    start = 0
    for task in tasks:
        if task.abnormality is not None and not task.classes:
            axes = scorer.differences(np.eye(dim, dtype=np.float32), task.asks).mean(1)
            weight = torch.from_numpy(scorer.calibration.scale * axes).to(head.weight)
            head.weight[start] = weight * head.spread
            head.bias[start] = scorer.calibration.bias
        start += task.width


def _mark(network: Network, mode: Mode, rank: int) -> None:
    """Say which parameters learn: only those that the answers depend on, and of these what the mode trains."""
    tower = network.tower
    tower.requires_grad_(mode == "full")
    if mode == "lora":
        add_lora(tower.encoder, rank)
    for name in ("anatomy_head", "text_head", "diagnosis_head", "image_head"):
        part = getattr(tower, name, None)
        if part is not None:
            used = network.space == "shared" and name == ("image_head" if network.whole else "diagnosis_head")
            if name == "diagnosis_head" and tower.settings.project == "token" and not network.whole:
                used = mode in ("lora", "full")  # organs are read through it
            part.requires_grad_(used and mode != "probe")


def tuned_release(start: Start, network: Network) -> Release:
    """The start's release with the tower as it was trained; low-rank updates are folded in.

    How far organs lie from those of training was measured with the tower as it was: one that moved is not measured.
    """
    release = copy.copy(start.release)
    if start.mode not in FROZEN:
        release.familiarity = None
    release.model = merged(network.tower).cpu().eval().requires_grad_(True)  # pyright: ignore[reportAttributeAccessIssue]
    return release
