"""From organ features to answers about studies: gated attention over organs, one linear classifier a column.

The pooling is attention-based multiple-instance learning with a gate (ABMIL, Ilse et al. 2018, arXiv 1802.04712,
equation 9), with one attention for each column and a learned preference for each organ. The classifier is linear, so
each organ's own logit is pooled: ``logit = sum_n a_n (w . f_n) + b``. A column of one organ has nothing to attend over,
and is a plain linear classifier of that organ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ctglip.tasks.targets import Target

_EAGER = 10.0
"""Which organ matters is learned so many times as fast as what in it matters: with few labels the gate fits noise."""


@dataclass
class HeadOutput:
    """A head's answers about S studies from N organs.

    Attributes:
        logits: one for each binary column and one for each class of the others.
        attention: share of each organ in its study's answer, 0 where the column does not read it; the shares of a study
            sum to one.
    """

    logits: Float[Tensor, "s c"]
    attention: Float[Tensor, "n t"]


def organ_statistics(
    features: Float[Tensor, "n d"], organ: Int[Tensor, " n"], organs: int
) -> tuple[Float[Tensor, "organs d"], Float[Tensor, " d"]]:
    """Each organ's mean (0 where it has no features), and the standard deviation around it over all organs.

    Args:
        features: of organ instances.
        organ: which organ each is, 0 .. organs - 1.
        organs: how many there are.
    """
    counts = torch.bincount(organ, minlength=organs).clamp(min=1)
    mean = features.new_zeros(organs, features.shape[1]).index_add(0, organ, features) / counts[:, None]
    return mean, (features - mean[organ]).std(0, correction=0).clamp(min=1e-4)


class BagHead(nn.Module):
    """Gated attention and linear classifiers; all start at zero, so all organs weigh the same and no answer is given.

    Args:
        dim: width of the features.
        targets: the columns.
        organs: names by number.
        hidden: width of the gate.
        dropout: of the features.

    Attributes:
        mean, std: features are standardised by these buffers; 0 and 1 leave them alone.
        weight, bias: the classifiers ``[c, d]``, ``[c]``.
    """

    member: Tensor
    owner: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self, dim: int, targets: Sequence[Target], organs: Sequence[str], hidden: int = 32, dropout: float = 0.0
    ) -> None:
        super().__init__()
        member = torch.tensor([[organ in target.organs for organ in organs] for target in targets], dtype=torch.bool)
        owner = [number for number, target in enumerate(targets) for _ in range(target.width)]
        self.register_buffer("member", member, persistent=False)
        self.register_buffer("owner", torch.tensor(owner), persistent=False)
        self.register_buffer("mean", torch.zeros(len(organs), dim))
        self.register_buffer("std", torch.ones(dim))
        self.drop = nn.Dropout(dropout)
        self.value = nn.Linear(dim, hidden)
        self.gate = nn.Linear(dim, hidden)
        self.attend = nn.Linear(hidden, len(targets), bias=False)
        self.prefer = nn.Parameter(torch.zeros(len(targets), len(organs)))
        self.weight = nn.Parameter(torch.zeros(len(owner), dim))
        self.bias = nn.Parameter(torch.zeros(len(owner)))
        nn.init.zeros_(self.attend.weight)

    @torch.no_grad()
    def standardise(self, features: Float[Tensor, "n d"], organ: Int[Tensor, " n"]) -> None:
        """Take each organ's mean, and the standard deviation around it over all organs, from some features."""
        mean, std = organ_statistics(features, organ, len(self.mean))
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(
        self, features: Float[Tensor, "n d"], organ: Int[Tensor, " n"], study: Int[Tensor, " n"], studies: int
    ) -> HeadOutput:
        """Answers about some studies.

        Args:
            features: of their organs.
            organ: which organ each is.
            study: whose it is, 0 .. studies - 1.
            studies: how many there are; one without a target's organs gets the bias alone.
        """
        x = self.drop((features.float() - self.mean[organ]) / self.std)
        scores = self.attend(torch.tanh(self.value(x)) * torch.sigmoid(self.gate(x))) + _EAGER * self.prefer.T[organ]
        attention = _softmax_by_study(scores, self.member.T[organ], study, studies)
        each = (x @ self.weight.T) * attention[:, self.owner]
        return HeadOutput(each.new_zeros(studies, each.shape[1]).index_add(0, study, each) + self.bias, attention)


def _softmax_by_study(scores: Tensor, member: Tensor, study: Tensor, studies: int) -> Tensor:
    """Softmax over each study's organs that belong to a target; 0 for the others."""
    scores = scores.masked_fill(~member, -torch.inf)
    most = scores.new_full((studies, scores.shape[1]), -torch.inf)
    most = most.scatter_reduce(0, study[:, None].expand_as(scores), scores.detach(), "amax")
    most = most.where(most.isfinite(), 0.0)
    weights = torch.exp(scores - most[study])
    total = scores.new_zeros(studies, scores.shape[1]).index_add(0, study, weights)
    return weights / total[study].clamp(min=1e-12)
