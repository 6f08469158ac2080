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


def spectre() -> None:
    """spectre-fm's backbone on each crop, and its feature combiner over them."""
    from spectre.models.vision_transformer import VisionTransformer
    from spectre.models.vision_transformer_features import FeatureVisionTransformer
    from spectre.presets import BACKBONE_KWARGS, COMBINER_KWARGS

    sizes, crop = SIZES["spectre"], SIZES["spectre"]["crop"]
    common = {"embed_dim": sizes["dim"], "num_heads": sizes["heads"], "qkv_bias": True, "norm_layer": nn.LayerNorm}
    module = filled(
        VisionTransformer(
            img_size=crop, patch_size=sizes["patch"], depth=sizes["depth"], mlp_ratio=4, **common, **BACKBONE_KWARGS
        )
    )
    image = tensor(scaled(hounsfield("spectre", -1000, 1000), -1000, 1000))
    counts = [side // step for side, step in zip(SIDES["spectre"], crop, strict=True)]
    assert counts == [1, 2, 2]
    crops = [image[:, :, :, y : y + crop[1], z : z + crop[2]] for y in (0, crop[1]) for z in (0, crop[2])]
    tokens = [module(one) for one in crops]
    vectors = torch.stack([torch.cat([one[:, 0], one[:, 1:].mean(1)], dim=1) for one in tokens], dim=1)
    grid = [c // p for c, p in zip(crop, sizes["patch"], strict=True)]
    maps = [one[:, 1:].transpose(1, 2).unflatten(2, grid) for one in tokens]
    level = torch.cat([torch.cat(maps[:2], dim=4), torch.cat(maps[2:], dim=4)], dim=3)
    combiner = filled(
        FeatureVisionTransformer(
            patch_dim=2 * sizes["dim"], depth=sizes["combiner_depth"], mlp_ratio=4, **common, **COMBINER_KWARGS
        )
    )
    whole = combiner(vectors, grid_size=counts)
    save_golden(
        "spectre", float_shapes(module.state_dict()), pooled=vectors.mean(1), level=level,
        combined=torch.cat([whole[:, 0], whole[:, 1:].mean(1)], dim=1),
    )  # fmt: skip


GOLDENS: dict[str, Callable[[], None]] = {"ct_fm": ct_fm, "spectre": spectre}

if __name__ == "__main__":
    with torch.no_grad():
        for name in sys.argv[1:] or list(GOLDENS):
            GOLDENS[name]()
