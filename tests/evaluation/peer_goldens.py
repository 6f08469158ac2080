"""Writes down what peers' own preprocessing makes of a made-up scan, and what their own text sides make of texts.

Run by hand where the packages are: ``python -m tests.evaluation.peer_goldens``, with merlin-vlm 0.0.7, colipri 0.1.3,
torchio 1.2.1, spectre-fm 0.2.1, loralib 0.1.2 and MONAI 1.6.1.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from tests.evaluation.peer_scans import SENTENCES, STEP, scan
from tests.evaluation.small_peers import siglip_head
from tests.models.released import float_shapes, made_up, made_up_state

PARITY = Path(__file__).parents[1] / "parity"


def sampled(image: torch.Tensor) -> np.ndarray:
    """Some voxels of an input, on the package's axes."""
    return np.asarray(image, dtype=np.float32)[..., :: STEP[0], :: STEP[1], :: STEP[2]]


def merlin(path: Path) -> torch.Tensor:
    """Merlin's transforms; its network turns the axes itself (head, right, front)."""
    from merlin.data.monai_transforms import ImageTransforms

    return torch.as_tensor(ImageTransforms({"image": str(path)})["image"])[0].permute(2, 0, 1)


def colipri(path: Path) -> torch.Tensor:
    """COLIPRI's transforms, as its processor has them without its tokeniser."""
    from colipri import get_processor

    return get_processor(image_only=True).process_images(path)[0].data[0]


def spectre(path: Path) -> torch.Tensor:
    """SPECTRE's transforms of its alignment with texts, up to the crops."""
    from monai.transforms import (
        Compose,
        EnsureChannelFirstd,
        LoadImaged,
        Orientationd,
        ResizeWithPadOrCropd,
        ScaleIntensityRanged,
        Spacingd,
    )

    keys = ["image"]
    steps = [
        LoadImaged(keys), EnsureChannelFirstd(keys, channel_dim="no_channel"),
        ScaleIntensityRanged(keys, -1000, 1000, 0.0, 1.0, clip=True), Orientationd(keys, axcodes="RAS"),
        Spacingd(keys, pixdim=(0.75, 0.75, 1.5), mode=("bilinear",)),
        ResizeWithPadOrCropd(keys, spatial_size=(384, 384, 256)),
    ]  # fmt: skip
    return torch.as_tensor(Compose(steps)({"image": str(path)})["image"])[0]


def words() -> np.ndarray:
    """Merlin's cleaning of texts."""
    from merlin.models.build import sanitize_report

    return np.array([sanitize_report(text) for text in SENTENCES])


def attention() -> np.ndarray:
    """COLIPRI's attention over the tokens of a padded text."""
    from colipri.pooling import AttentionPool1D

    pooler = AttentionPool1D(24, 2).eval()
    pooler.load_state_dict(made_up_state(float_shapes(pooler.state_dict())))
    tokens = made_up("tokens", (2, 7, 24))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    return pooler(tokens, attention_mask=mask).detach().numpy()


def head() -> np.ndarray:
    """SPECTRE's projection."""
    from spectre.ssl.heads import SigLIPProjectionHead

    projection = SigLIPProjectionHead(48, 32, 12, 16).eval()
    projection.load_state_dict(siglip_head(48))
    return projection(made_up("vectors", (3, 48))).detach().numpy()


def updated() -> np.ndarray:
    """loralib's layer with SPECTRE's rank and factor, as it is evaluated."""
    import loralib

    layer = loralib.Linear(24, 16, r=16, lora_alpha=64, bias=False)
    layer.load_state_dict(made_up_state(float_shapes(layer.state_dict())))
    layer.eval()  # it gives nothing back
    return layer(made_up("vectors", (3, 24))).detach().numpy()


def main() -> None:
    """Write ``tests/parity/peer_inputs.npz`` and ``peer_texts.npz``."""
    hu, affine = scan()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.nii.gz"
        nib.save(nib.Nifti1Image(hu.astype(np.int16), affine), path)
        found = {one.__name__: sampled(one(path)) for one in (merlin, colipri, spectre)}
    np.savez_compressed(PARITY / "peer_inputs.npz", **found)
    np.savez_compressed(PARITY / "peer_texts.npz", words=words(), attention=attention(), head=head(), updated=updated())


if __name__ == "__main__":
    main()
