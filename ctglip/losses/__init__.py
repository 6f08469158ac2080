"""Losses: tensors in, scalars out, each gathered over all ranks with its gradient. They know torch and einops alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctglip.lazy import public_names

if TYPE_CHECKING:
    from ctglip.losses.chunks import chunked_sum as chunked_sum
    from ctglip.losses.contrastive import alignment as alignment
    from ctglip.losses.contrastive import class_prompts as class_prompts
    from ctglip.losses.contrastive import exact as exact
    from ctglip.losses.contrastive import sigmoid_pairs as sigmoid_pairs
    from ctglip.losses.contrastive import soft_contrastive as soft_contrastive
    from ctglip.losses.gather import gather_rows as gather_rows
    from ctglip.losses.masked import masked_pixel as masked_pixel
    from ctglip.losses.masked import weighted_mlm as weighted_mlm
    from ctglip.losses.observations import sentence_contrast as sentence_contrast
    from ctglip.losses.observations import set_contrast as set_contrast
    from ctglip.losses.tags import tag_bce as tag_bce
    from ctglip.losses.targets import clinical_prior as clinical_prior
    from ctglip.losses.targets import equal_key as equal_key
    from ctglip.losses.targets import hierarchy_aware as hierarchy_aware
    from ctglip.losses.targets import identity as identity
    from ctglip.losses.targets import tag_overlap as tag_overlap

__getattr__, __dir__ = public_names(__name__)
