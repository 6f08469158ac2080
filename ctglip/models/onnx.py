"""The image encoder as ONNX: for other runtimes, checked against onnxruntime when it is written.

Its input is what ``model_input`` of a loaded model makes of a scan:

>>> model = ctglip.load_model("model")
>>> crops = model.model_input("scan.nii.gz", ["liver", "spleen"], masks="masks.nii.gz")
>>> *levels, pooled = onnxruntime.InferenceSession("encoder.onnx").run(None, {"image": crops["image"].numpy()})
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ctglip.errors import ModelError
from ctglip.files import atomic_path
from ctglip.models.encoders.base import Encoder
from ctglip.models.release import Release
from ctglip.resources import require

EXTRA = "onnx"
TOLERANCE = 1e-4
_OPSET = 18


class _Outputs(nn.Module):
    """The encoder with plain tensors as its outputs: the levels, fine to coarse, then the pooled vector."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        found = self.encoder(image)
        return (*found.levels, found.pooled)


def image_shape(release: Release) -> tuple[int, ...]:
    """Channels and sides of what a released model's encoder sees."""
    return (release.model.inputs.in_channels, *release.sides)


def export_onnx(
    encoder: Encoder,
    shape: tuple[int, ...],
    path: Path,
    tolerance: float = TOLERANCE,
    channels: Sequence[str] = (),
) -> float:
    """Write an encoder as ONNX and check it.

    The graph has one input ``image [batch, channels, *sides]`` (any batch, these sides) and the outputs ``level_0``
    ..., fine to coarse, and ``pooled``. Its metadata ``channels`` names the channels, one a line.

    Args:
        encoder: on the CPU, as it answers in evaluation mode.
        shape: of one image: channels, then sides.
        path: the file; it is there only if the check passes.
        channels: what each channel of the input shows.
        tolerance: largest difference from PyTorch that is allowed, relative to the largest value of each output.

    Returns:
        The largest such difference that was found, over two batch sizes.

    Raises:
        MissingExtraError: ``onnx``, ``onnxscript`` or ``onnxruntime`` is not installed.
        ModelError: code ``onnx``: the encoder cannot be written, or ONNX answers otherwise.
    """
    require("onnx", EXTRA)
    require("onnxscript", EXTRA)
    runtime = require("onnxruntime", EXTRA)
    was_training = encoder.training
    module = _Outputs(encoder).eval()
    names = [*(f"level_{number}" for number in range(len(encoder.level_channels))), "pooled"]
    example = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module, (example,), dynamo=True, input_names=["image"], output_names=names, opset_version=_OPSET,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},), verbose=False,
            )  # fmt: skip
    except (RuntimeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
        raise ModelError(f"The encoder cannot be written as ONNX: {str(error).splitlines()[0]}", code="onnx") from error
    assert program is not None
    program.model.metadata_props["channels"] = "\n".join(channels)
    with atomic_path(path) as temporary:
        program.save(str(temporary))
        session = runtime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        worst = max(_difference(session, module, example[:batch], names) for batch in (1, 2))
        encoder.train(was_training)
        if not worst <= tolerance:
            raise ModelError(
                f"ONNX answers otherwise than PyTorch: off by {worst:.2g}, allowed {tolerance:.0e}.", code="onnx"
            )
    return worst


@torch.no_grad()
def _difference(session: object, module: nn.Module, images: Tensor, names: list[str]) -> float:
    """The largest difference of any output, relative to that output's largest value."""
    found = session.run(names, {"image": images.numpy()})  # pyright: ignore[reportAttributeAccessIssue]
    pairs = zip(found, module(images), strict=True)
    return max(float(np.abs(a - b.numpy()).max() / max(float(b.abs().max()), 1e-6)) for a, b in pairs)
