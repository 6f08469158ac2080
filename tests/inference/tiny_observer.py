"""A radiograph model whose weights are written down, so that its answers and where it looks are known: one query looks
at each costophrenic angle, and its observation says whether it is bright there.

Nothing is trained: what training makes of queries differs from machine to machine.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ctglip.inference.scoring import Calibration, Scorer
from ctglip.models.encoders.vit import ViTEncoder, ViTSettings
from ctglip.models.release import Release
from ctglip.models.resampler import Resampler, ResamplerSettings, waves
from tests.inference.tiny_cxr import cxr_release

PAIRS = [("pleura_left", "pleural_effusion"), ("pleura_right", "pleural_effusion")]
OBSERVING = {
    "encoder": ViTSettings(spatial_dims=2, patch=6, image_size=48, dim=32, depth=1, heads=4),
    "resampler": ResamplerSettings(queries=4, layers=1, heads=1, dim=32),
}
GRID = (8, 8)
ROW, COLUMNS = 5, (6, 1)
"""Of the grid of patches, counted from 0: where the effusions of ``draw_radiograph`` lie, those of the left first."""
BRIGHT = 0.3
"""Grey value of the window between a patch with an effusion and one without, a wide heart beside it or not."""


def observing(bert: Path) -> Release:
    """Queries 0 and 1 look at the patient's left and right angle, 2 and 3 at all of the radiograph."""
    release = cxr_release(bert, **OBSERVING)
    with torch.no_grad():
        encoder, observer = release.model.encoder, release.model.resampler
        assert isinstance(encoder, ViTEncoder)
        _brightness(encoder)
        _looks(observer)
        scorer = Scorer(release, observes=True)
        prompts = [text for pair in PAIRS for side in scorer.prompts(pair) for text in side]
        linear = observer.textual_head.layers[1]
        linear.bias -= 0.8 * observer.textual_head.unscaled(release.embed(prompts)).mean(0)
        _says(observer, torch.from_numpy(scorer.sides(PAIRS)).flatten(0, 1))
    observed = Calibration(scale=10.0, learned_scale=10.0, fitted_on="a test")
    release.calibration = Calibration(scale=1.0, observations=observed).model_dump(mode="json")
    release.model.eval()
    return release


def _zero(*layers: nn.Module) -> None:
    for layer in layers:
        for weight in layer.parameters():
            weight.zero_()


def _brightness(encoder: ViTEncoder) -> None:
    """Channel 0 of each token: near 4 where its patch is brighter than ``BRIGHT`` on average, else near -4."""
    _zero(encoder.embed)
    encoder.positions.zero_()
    for channel, sign in ((0, 1), (1, -1)):
        encoder.embed.weight[channel] = sign * 10 / encoder.embed.weight[channel].numel()
        encoder.embed.bias[channel] = -sign * 10 * BRIGHT
        encoder.embed.bias[channel + 2] = sign
    for block in encoder.blocks:
        _zero(block.attn.out_proj, block.mlp.linear2)


def _looks(observer: Resampler) -> None:
    """Attention by place alone, what is read is the brightness, and an observation is which query read which of two."""
    reader, layer, width = observer.token_readers[0], observer.decoder.layers[0], observer.settings.dim
    _zero(reader.content[1], reader.position, observer.queries, layer.cross_attn, layer.self_attn.out_proj, layer.ffn)
    reader.content[1].weight[0, 0] = 1
    reader.position.weight[1:3] = torch.stack([_peak(ROW, column) for column in COLUMNS])
    signs = torch.tensor([1.0, -1.0])
    for query, first in enumerate((0, 2, 20, 22)):
        observer.queries.weight[query, first : first + 2] = signs
    ask, seek, read = layer.cross_attn.in_proj_weight.split(width)
    for side in (0, 1):
        ask[side, 2 * side] = width**0.5
        seek[side, 1 + side] = 2
    read[0, 0] = 0.25
    layer.cross_attn.out_proj.weight[4:6, 0] = signs
    corner = width**0.5 / 2
    for number in range(4):
        side, sign = divmod(number, 2)
        layer.ffn[0].weight[number, 2 * side] = 1
        layer.ffn[0].weight[number, 4] = 1 - 2 * sign
        layer.ffn[0].bias[number] = -corner
        layer.ffn[3].weight[8 + 2 * number : 10 + 2 * number, number] = 10 * signs


def _peak(row: int, column: int) -> torch.Tensor:
    """Weights of the waves of a place, of which the sum is highest at one cell of the grid."""
    rows, columns = torch.meshgrid(torch.arange(GRID[0]), torch.arange(GRID[1]), indexing="ij")
    wanted = ((rows == row).float() + (columns == column).float()).flatten()
    positions = torch.cat([waves(GRID), torch.ones(len(wanted), 1)], dim=1)
    return torch.linalg.lstsq(positions, wanted[:, None], driver="gelsd").solution[:-1, 0]


def _says(observer: Resampler, sides: torch.Tensor) -> None:
    """What query 0 and 1 say: the direction that is like the prompts of their own answer and like no others.

    Args:
        sides: directions of the prompts: present (left, right), absent (left, right).
    """
    linear = observer.visual_head.layers[1]
    _zero(linear)
    own = torch.nn.functional.normalize(torch.linalg.pinv(sides).T, dim=1)
    for number, position in enumerate((0, 2, 1, 3)):
        linear.weight[:, 8 + 2 * number] = own[position]
    apart = torch.linalg.svd(sides).Vh[-1]
    linear.weight[:, 20] = linear.weight[:, 22] = apart
