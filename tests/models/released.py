"""Made-up weights of released encoders, the same on every machine, and small sizes of each."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctglip.models.encoders import ENCODERS, build_encoder
from ctglip.models.encoders.released import ReleasedEncoder

GOLDENS = Path(__file__).parents[1] / "parity"
SIZES: dict[str, dict[str, Any]] = {
    "ct_fm": {"filters": 4, "blocks": (1, 2, 1)},
    "spectre": {"patch": (4, 4, 2), "dim": 24, "depth": 3, "heads": 2, "crop": (8, 8, 4), "combiner_depth": 1},
    "tangerine": {"patch": 4, "image_size": 8, "dim": 24, "depth": 2, "heads": 2},
    "voxelfm": {"patch": 4, "dim": 24, "depth": 2, "heads": 2, "registers": 2},
    "m3d_clip": {"patch": (2, 4, 4), "image_size": (8, 8, 12), "dim": 24, "depth": 2, "heads": 2},
    "fvlm": {"image_size": (32, 256, 352), "dim": 16, "depth": 11, "heads": 4},
    "ct_clip": {
        "image_size": 40,
        "patch": 10,
        "slices": 5,
        "dim": 24,
        "heads": 2,
        "head_dim": 8,
        "spatial_depth": 2,
        "temporal_depth": 2,
        "codebook": 16,
    },
    "hlip": {"image_size": (16, 48, 48), "dim": 24, "heads": 4, "depth": 3, "slice_blocks": (0, 1)},
    "colipri": {"patch": 4, "image_size": 8, "dim": 24, "depth": 2, "heads": 2, "embedding": 16, "drop_path": 0.0},
    "merlin": {"blocks": (1, 2, 1, 1), "width": 4},
    "suprem": {"dim": 8, "depths": (1, 1, 1, 1)},
    "voco": {"dim": 12, "depths": (1, 1, 1, 1), "heads": (1, 1, 2, 2)},
    "medicalnet": {"depth": 18, "widths": (8, 8, 16, 16)},
    "stunet": {"width": 4},
    "nnssl": {"widths": (4, 8, 8), "blocks": (1, 2, 1)},
    "totalsegmentator": {"widths": (4, 8, 8), "convolutions": (2, 1, 1)},
}
"""Settings of each encoder at a size that tests can afford."""
SIDES: dict[str, tuple[int, int, int]] = {
    "ct_fm": (16, 8, 12),
    "spectre": (8, 16, 8),
    "tangerine": (8, 8, 8),
    "voxelfm": (8, 12, 16),
    "m3d_clip": (12, 8, 8),
    "fvlm": (96, 64, 48),
    "ct_clip": (40, 40, 15),
    "hlip": (72, 48, 24),
    "colipri": (12, 4, 8),
    "merlin": (32, 64, 48),
    "suprem": (16, 8, 24),
    "voco": (32, 64, 32),
    "medicalnet": (16, 24, 32),
    "stunet": (64, 32, 32),
    "nnssl": (8, 16, 12),
    "totalsegmentator": (8, 16, 12),
}
"""Of the image that its answer was written down for; not the same along all axes where positions are not learned."""


def made_up(name: str, shape: tuple[int, ...]) -> Tensor:
    """A weight that its name and shape decide, in the range that trained ones have."""
    draw = torch.from_numpy(np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)).float()
    if name.endswith(("running_var", "periods")):
        return 0.5 + draw.abs()
    if len(shape) > 1:
        return draw / max(np.prod(shape[1:]), 1) ** 0.5
    return 1 + 0.1 * draw if name.endswith(("weight", "gamma", "gamma_1", "gamma_2")) else 0.1 * draw


def made_up_state(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights of these names and shapes."""
    return {name: made_up(name, tuple(shape)) for name, shape in shapes.items()}


def float_shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of a state dict (its counters and tables of indices left out)."""
    return {name: tuple(value.shape) for name, value in state.items() if value.is_floating_point()}


def save_golden(name: str, shapes: Mapping[str, tuple[int, ...]], **outputs: Any) -> None:
    """Write down what another implementation answered."""
    arrays = {key: np.asarray(value, dtype=np.float32) for key, value in outputs.items()}
    about = np.frombuffer(json.dumps({key: list(shape) for key, shape in shapes.items()}).encode(), dtype=np.uint8)
    np.savez_compressed(GOLDENS / f"encoder_{name}.npz", shapes=about, **arrays)


def load_golden(name: str) -> tuple[dict[str, tuple[int, ...]], dict[str, Tensor]]:
    """Names and shapes of the weights, and the answers."""
    with np.load(GOLDENS / f"encoder_{name}.npz") as file:
        shapes = json.loads(bytes(file["shapes"]).decode())
        outputs = {key: torch.from_numpy(file[key]) for key in file.files if key != "shapes"}
    return {key: tuple(shape) for key, shape in shapes.items()}, outputs


def under(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    """The same weights below a prefix."""
    return {f"{prefix}{name}": value for name, value in state.items()}


def heads(*names: str) -> dict[str, Any]:
    """Weights that the encoder has no part in."""
    return {name: torch.zeros(2) for name in names}


def size_of(name: str) -> tuple[int, float]:
    """Entries of the state dict of a released encoder at its released size, and millions of parameters."""
    with torch.device("cpu" if name == "voco" else "meta"):  # MONAI's Swin transformer reads numbers of a tensor
        encoder = build_encoder(ENCODERS[name].Settings.model_validate({"name": name}), 1)
    assert isinstance(encoder, ReleasedEncoder)
    parameters = sum(value.numel() for value in encoder.network.parameters())
    return len(encoder.network.state_dict()), parameters / 1e6
