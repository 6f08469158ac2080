"""What the packages of released encoders answer, written down for the tests: ``python -m tests.models.released_goldens
NAME ...`` where the package is installed (the cards in ``configs/encoders`` say which).

Each function builds the package's own module at a small size, fills it with made-up weights, and makes its input from
HU with plain numpy, apart from this project's code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ctglip.models.encoders.probe import probe_image
from tests.models.released import SIDES, SIZES, float_shapes, made_up_state, save_golden


def hounsfield(name: str, low: float, high: float) -> np.ndarray:
    """The test image as HU in a window, axes to right, front and head."""
    return low + (probe_image(1, SIDES[name])[0, 0].double().numpy() + 1) / 2 * (high - low)


def scaled(hu: np.ndarray, low: float, high: float) -> np.ndarray:
    """HU clipped to a window, 0 to 1."""
    return (np.clip(hu, low, high) - low) / (high - low)


def slices_first(image: np.ndarray) -> np.ndarray:
    """Axes to head, back and left: what SimpleITK reads, and MONAI's orientation SPL."""
    return np.ascontiguousarray(image.transpose(2, 1, 0)[:, ::-1, ::-1])


def back(level: Tensor) -> Tensor:
    """A feature map ``[1, C, s, p, l]`` with axes to right, front and head."""
    return level.flip(3, 4).permute(0, 1, 4, 3, 2)


def tensor(image: np.ndarray) -> Tensor:
    """One image of one channel."""
    return torch.from_numpy(np.ascontiguousarray(image)).float()[None, None]


def filled(module: nn.Module) -> nn.Module:
    """A package's module with made-up weights."""
    module.load_state_dict(module.state_dict() | made_up_state(float_shapes(module.state_dict())))
    return module.eval()


def ct_fm() -> None:
    """MONAI's SegResEncoder, which lighter-zoo wraps."""
    from lighter_zoo import SegResEncoder

    sizes = SIZES["ct_fm"]
    module = filled(SegResEncoder(init_filters=sizes["filters"], blocks_down=sizes["blocks"], head_module=None))
    levels = module(tensor(slices_first(scaled(hounsfield("ct_fm", -1024, 2048), -1024, 2048))))
    save_golden("ct_fm", float_shapes(module.state_dict()), pooled=levels[-1].mean((2, 3, 4)), level=back(levels[-2]))


GOLDENS: dict[str, Callable[[], None]] = {"ct_fm": ct_fm}

if __name__ == "__main__":
    with torch.no_grad():
        for name in sys.argv[1:] or list(GOLDENS):
            GOLDENS[name]()
