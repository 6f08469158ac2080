"""Published losses, reproduced from random inputs and the figures of their reference implementations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ctglip.losses.contrastive import sigmoid_pairs, soft_contrastive
from ctglip.losses.masked import masked_pixel, patchify, unpatchify, weighted_mlm, window_error, window_mask
from ctglip.losses.tags import tag_bce
from ctglip.losses.targets import clinical_prior, tag_overlap
from ctglip.models.pooling import pool_boxes


def close(loss: Tensor, number: Tensor) -> None:
    assert loss.item() == pytest.approx(number.item(), abs=1e-5)


@pytest.mark.parametrize("chunk", [None, 3])
def test_open_clip(golden, chunk):
    numbers = golden("openclip")
    x, y = F.normalize(numbers["imitate/x"], dim=1), F.normalize(numbers["imitate/y"], dim=1)
    close(soft_contrastive(x, y, 14.3, chunk=chunk), numbers["openclip/clip"])
    close(sigmoid_pairs(x, y, 10.0, -10.0), numbers["openclip/siglip"])


@pytest.mark.parametrize("tau", [0.07, 0.2])
@pytest.mark.parametrize("kernel", ["exp", "gau", "lap", "sigmoid"])
def test_imitate_sums_both_directions(golden, kernel, tau):
    numbers = golden("imitate")
    x, y = F.normalize(numbers["imitate/x"], dim=1), F.normalize(numbers["imitate/y"], dim=1)
    target = clinical_prior(tau, kernel, numbers["imitate/lam"].item())
    loss = soft_contrastive(x, y, 1 / tau, target=target, context=numbers["imitate/prior"])
    close(2 * loss, numbers[f"imitate/{kernel}/{tau}/loss"])


def test_imitate_without_prior(golden):
    numbers = golden("imitate")
    x, y = F.normalize(numbers["imitate/x"], dim=1), F.normalize(numbers["imitate/y"], dim=1)
    close(2 * soft_contrastive(x, y, 5.0), numbers["imitate/noprior/0.2/loss"])


def asg_regions(numbers: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Region features, sentence features and the image of each, as ASG pools them."""
    counts = numbers["asg/n_regions"]
    image = torch.repeat_interleave(torch.arange(len(counts)), counts)
    kept = torch.arange(numbers["asg/sent_index"].shape[1])[None, :] < counts[:, None]
    patches = F.normalize(numbers["asg/patch"], dim=2).transpose(1, 2).unflatten(2, (14, 14))
    xyxy = numbers["asg/regions_xyxy_feature_coords"][kept]
    regions = pool_boxes(patches, xyxy[:, [1, 3, 0, 2]], image, how="roi_align")
    words = numbers["asg/sent_index"][kept]
    there = (words >= 0).to(patches.dtype)[..., None]
    found = F.normalize(numbers["asg/word"], dim=2)[image[:, None], words.clamp(min=0)]
    return regions, (found * there).sum(1) / there.sum(1), image


def test_asg(golden):
    numbers = golden("asg")
    image, report = F.normalize(numbers["asg/img"], dim=1), F.normalize(numbers["asg/report"], dim=1)
    scale = 1 / numbers["asg/tau"].item()
    tags = (numbers["asg/labels"] == 1).double()
    alignment = 2 * soft_contrastive(image, report, scale)
    close(alignment, numbers["asg/ira"])
    regions, sentences, group = asg_regions(numbers)
    local = 2 * soft_contrastive(regions, sentences, scale, group=group)
    close(local, numbers["asg/arsa"])
    recognition = tag_bce(numbers["asg/tag_logits"], tags)
    close(recognition, numbers["asg/irl_bce"])
    soft = soft_contrastive(image, report, scale, target=tag_overlap(0.2, 1e-6), context=tags, divergence="jeffreys")
    close(soft, numbers["asg/erl_soft"])
    total = alignment + local + 5 * recognition + soft
    assert total.item() == pytest.approx(numbers["asg/total"].item(), abs=5e-5)


def test_ecamp_pictures(golden):
    numbers = golden("ecamp")
    image, sharp, prediction = numbers["ecamp/img"], numbers["ecamp/img_hr"], numbers["ecamp/pred"]
    patch, grid = 2, (14, 14)
    assert torch.equal(unpatchify(patchify(image, patch), patch, grid), image)
    mim = masked_pixel(prediction, patchify(image, patch), numbers["ecamp/mask"], denominator="all")
    close(mim, numbers["ecamp/mim"])
    picture = F.interpolate(unpatchify(prediction, patch, grid), scale_factor=2, mode="bilinear")
    hidden = F.conv2d(picture, numbers["ecamp/w1"], numbers["ecamp/b1"], padding=1).relu()
    better = (F.conv2d(hidden, numbers["ecamp/w2"], numbers["ecamp/b2"], padding=1) + picture).relu()
    corner = torch.stack([numbers["ecamp/win_i"], numbers["ecamp/win_j"]], dim=1)
    close(window_error(better, sharp, window_mask(grid, corner, 12, 4), "all"), numbers["ecamp/sr"])


def test_ecamp_words(golden):
    numbers = golden("ecamp")
    loss = weighted_mlm(numbers["ecamp_mlm/logits"], numbers["ecamp_mlm/labels"], numbers["ecamp_mlm/weights"])
    close(loss, numbers["ecamp_mlm/loss"])
