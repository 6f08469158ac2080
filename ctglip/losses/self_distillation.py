"""Self-distillation without labels (DINO, Caron et al., ICCV 2021, arXiv 2104.14294): what a teacher says of one view
of an image is said by the student of the others."""

from __future__ import annotations

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from ctglip.losses.contrastive import exact
from ctglip.losses.gather import ranked_mean, world_size


def self_distillation(
    student: Float[Tensor, "b v k"],
    teacher: Float[Tensor, "b g k"],
    temperature: float,
    gather: bool = False,
) -> Float[Tensor, ""]:
    """Cross-entropy of the student's prototypes with the teacher's over all pairs of different views (DINO, eq. 3).

    Args:
        student: similarities of v views with k prototypes; the first g views are the teacher's, in its order.
        teacher: the teacher's probabilities (``teacher_answer``) of g views; they take no gradient.
        temperature: what the student's similarities are divided by.
        gather: the mean is over the images of all ranks.
    """
    with torch.autocast(student.device.type, enabled=False):
        log_student = (exact(student) / temperature).log_softmax(-1)
        terms = -torch.einsum("bgk,bvk->bgv", teacher.detach().to(log_student.dtype), log_student)
        teachers, views = terms.shape[1:]
        other = 1 - torch.eye(teachers, views, dtype=terms.dtype, device=terms.device)
        return ranked_mean((terms * other).sum(), len(log_student) * teachers * (views - 1), gather)


@torch.no_grad()
def teacher_answer(
    teacher: Float[Tensor, "b g k"], center: Float[Tensor, " k"], temperature: float
) -> Float[Tensor, "b g k"]:
    """The teacher's probabilities of the prototypes (DINO, eq. 1, with its center).

    Args:
        teacher: similarities with the prototypes.
        center: taken away from them, so that no prototype wins everywhere.
        temperature: what they are divided by; lower than the student's.
    """
    teacher = exact(teacher)
    return ((teacher - center.to(teacher.dtype)) / temperature).softmax(-1)


@torch.no_grad()
def moved_center(
    center: Float[Tensor, " k"], teacher: Float[Tensor, "b g k"], momentum: float, gather: bool = False
) -> Float[Tensor, " k"]:
    """The moving average of the teacher's similarities (DINO, eq. 4).

    Args:
        center: before.
        teacher: of this rank's images.
        momentum: share of the old center in the new one.
        gather: the mean is over the images of all ranks.

    Returns:
        The center after a step; as it was where there are no images.
    """
    rows = exact(teacher).flatten(0, 1)
    total, count = rows.sum(0), torch.tensor(float(len(rows)), dtype=rows.dtype, device=rows.device)
    if gather and world_size() > 1:
        dist.all_reduce(total)
        dist.all_reduce(count)
    return momentum * center + (1 - momentum) * (total / count).to(center.dtype) if count > 0 else center
