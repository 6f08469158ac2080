"""A fingerprint of what an encoder does: its answer to one made-up image, kept with a model and compared when it is
loaded. Weights that are whole but read by other code (another version of a package) would be found out."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ctglip.errors import ModelError
from ctglip.models.encoders.base import Encoder

TOLERANCE = 5e-3
"""Of the answer's root mean square: far above what processors differ by, far below what other weights give."""
_NUMBERS = 16


def encoder_probe(encoder: Encoder, channels: int) -> dict[str, Any]:
    """The encoder's answer to one image, as plain data.

    Args:
        encoder: in any mode; it is left in it.
        channels: of its images.

    Returns:
        ``sides`` of the image, the ``rms`` of the pooled vector and its first ``values``; nothing where the answer is
        no number.
    """
    sides = encoder.probe_sides()
    found = _answer(encoder, channels, sides)
    return {"sides": list(sides), **found} if math.isfinite(found["rms"]) else {}


def check_probe(encoder: Encoder, channels: int, stored: dict[str, Any], where: str) -> None:
    """Compare an encoder with what was stored of it.

    Raises:
        ModelError: code ``probe``: it gives another answer.
    """
    found = _answer(encoder, channels, tuple(stored["sides"]))
    one, other = ([entry["rms"], *entry["values"]] for entry in (found, stored))
    far = max((abs(a - b) for a, b in zip(one, other, strict=True)), default=0.0)
    if not far <= TOLERANCE * max(stored["rms"], 1e-6):
        raise ModelError(
            f"{where}: the image encoder gives another answer than when it was saved "
            f"(off by {far:.2g}, root mean square {stored['rms']:.2g}).",
            code="probe",
            fix="Copy the model folder again, or install the versions that its config names.",
        )


def probe_image(channels: int, sides: tuple[int, ...]) -> Tensor:
    """An image with structure in every direction, between -1 and 1, the same on every machine ``[1, C, *sides]``."""
    axes = [torch.arange(side, dtype=torch.float64) for side in sides]
    waves = sum(
        torch.sin(axis * (0.37 + 0.11 * number) + number).view([-1 if k == number else 1 for k in range(len(sides))])
        for number, axis in enumerate(axes)
    )
    shifts = torch.arange(channels, dtype=torch.float64).view(-1, *[1] * len(sides))
    return torch.sin(2.1 * waves + 0.5 * shifts)[None].float()


@torch.no_grad()
def _answer(encoder: Encoder, channels: int, sides: tuple[int, ...]) -> dict[str, Any]:
    parameter = next(encoder.parameters())
    image = probe_image(channels, sides).to(parameter.device, parameter.dtype)
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.backends.cudnn.flags(allow_tf32=False), torch.autocast(parameter.device.type, enabled=False):
            pooled = encoder(image).pooled[0].double().cpu()
    finally:
        encoder.train(was_training)
    rms = math.sqrt(float(pooled.square().mean()))
    return {"rms": rms, "values": [float(value) for value in pooled[:_NUMBERS]]}
