"""Abnormalities of size and shape: part of the anatomy is warped before the image is made, and measured after."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ctglip.simulation.anatomy import Anatomy
from ctglip.simulation.labels import number
from ctglip.simulation.scene import Lesion, Scene, depth_mm
from ctglip.simulation.warp import Bulge, Swelling, Warp, Wedge

LEVELS = {
    "lumbar_spine": ("L1", "L2", "L3", "L4"),
    "thoracic_spine": ("T9", "T10", "T11", "T12"),
}
_BODY_SHARE = 0.42
"""How much of a vertebra's depth its body takes, from the front."""


def splenomegaly_warp(anatomy: Anatomy, organ: str, rng: np.random.Generator) -> Warp:
    """A spleen of 1.9 to 3.2 times its volume that grows towards the midline, forwards and down."""
    centre, half = _position(anatomy, organ)
    return Swelling(centre + half * [-0.5, -0.4, 0.45], half * 1.5, float(rng.uniform(1.24, 1.47)), reach=2.2)


def cardiomegaly_warp(anatomy: Anatomy, organ: str, rng: np.random.Generator) -> Warp:
    """A heart of 1.5 to 2.1 times its volume that grows into the lungs, mostly to the left."""
    centre, half = _position(anatomy, organ)
    return Swelling(centre + half * [0.25, 0.3, -0.35], half * 1.25, float(rng.uniform(1.15, 1.29)), reach=2.0)


def aneurysm_warp(anatomy: Anatomy, organ: str, rng: np.random.Generator) -> Warp:
    """A fusiform widening of the abdominal aorta to 2 to 2.9 times its width."""
    line = _vessel_line(anatomy, organ)
    low = float(line[0, 0])
    height = low + float(rng.uniform(28, 48))
    at = [float(np.interp(height, line[:, 0], line[:, n])) for n in (1, 2)]
    return Bulge(np.array([*at, height]), line, float(rng.uniform(2.0, 2.9)), float(rng.uniform(26, 38)))


def fracture_warp(anatomy: Anatomy, organ: str, rng: np.random.Generator) -> Warp:
    """One vertebral body that loses 35 to 60 % of its height in front."""
    centre, half = _body(anatomy, str(rng.choice(fracture_levels(anatomy, organ))))
    return Wedge(centre, half, float(rng.uniform(0.35, 0.6)))


def splenomegaly(scene: Scene, organ: str, _rng: np.random.Generator) -> list[Lesion]:
    """What became of the spleen."""
    return [_measured(scene, "splenomegaly", organ)]


def cardiomegaly(scene: Scene, organ: str, _rng: np.random.Generator) -> list[Lesion]:
    """What became of the heart."""
    return [_measured(scene, "cardiomegaly", organ)]


def aortic_aneurysm(scene: Scene, organ: str, rng: np.random.Generator) -> list[Lesion]:
    """Where the abdominal aorta is widest, and how wide; half of them with a rim of thrombus."""
    box = scene.box([organ])
    assert box is not None
    depth = box[2].stop - box[2].start
    lower = (box[0], box[1], slice(box[2].start, box[2].start + int(0.4 * depth)))
    mask = scene.mask([organ], lower)
    areas = ndimage.uniform_filter1d(mask.sum((0, 1)).astype(float), 3)
    top = int(areas.argmax())
    radius = float(np.sqrt(areas[top] / np.pi)) * scene.spacing_mm[0]
    x, y = np.argwhere(mask[:, :, top]).mean(0)
    centre = np.array([x, y, top]) + [part.start for part in lower]
    if scene.contrast and rng.random() < 0.5:
        deep = depth_mm(mask, scene.spacing_mm)
        wide = np.sqrt(areas / np.pi) * scene.spacing_mm[0] > 0.75 * radius
        scene.hu[lower][mask & (deep < 0.35 * radius) & wide[None, None, :]] = 42
    return [scene.lesion("aortic_aneurysm", organ, centre, radius)]


def compression_fracture(scene: Scene, organ: str, rng: np.random.Generator) -> list[Lesion]:
    """Bone pressed together is denser."""
    level = str(rng.choice(fracture_levels(scene.anatomy, organ)))
    vertebra = f"vertebrae_{level}"
    box = scene.box([vertebra])
    assert box is not None
    mask = scene.mask([vertebra], box)
    body = mask & (np.arange(mask.shape[1]) > (1 - _BODY_SHARE) * mask.shape[1])[None, :, None]
    scene.hu[box][body] += np.float32(rng.uniform(70, 150))
    voxels = np.argwhere(body)
    centre = voxels.mean(0) + [part.start for part in box]
    return [
        scene.lesion("compression_fracture", vertebra, centre, np.ptp(voxels[:, 0]) * scene.spacing_mm[0] / 2, level)
    ]


def fracture_levels(anatomy: Anatomy, organ: str) -> list[str]:
    """Vertebrae of a part of the spine that are whole in the anatomy."""
    found = []
    for level in LEVELS[organ]:
        box = anatomy.boxes[number(f"vertebrae_{level}") - 1]
        complete = box is not None and box[2].start > 1 and box[2].stop < anatomy.labels.shape[2] - 1
        if complete and anatomy.volume_ml(f"vertebrae_{level}") > 12:
            found.append(level)
    return found


def _position(anatomy: Anatomy, organ: str) -> tuple[np.ndarray, np.ndarray]:
    position = anatomy.position(organ)
    assert position is not None
    return position


def _measured(scene: Scene, abnormality: str, organ: str) -> Lesion:
    box = scene.box([organ])
    assert box is not None
    mask = scene.mask([organ], box)
    extent = np.array(mask.shape) * scene.edges
    centre = np.argwhere(mask).mean(0) + [part.start for part in box]
    size = extent[2] if organ == "spleen" else extent[0]
    return scene.lesion(abnormality, organ, centre, float(size) / 2)


def _vessel_line(anatomy: Anatomy, organ: str) -> np.ndarray:
    """Height, centre and radius in mm of the lowest 130 mm of a vessel that runs along z, ``[n, 4]``."""
    box = anatomy.boxes[number(organ) - 1]
    assert box is not None
    spacing = np.array(anatomy.spacing_mm)
    mask = anatomy.labels[box] == number(organ)
    count = min(mask.shape[2], int(130 / spacing[2]))
    rows = []
    for z in range(count):
        voxels = np.argwhere(mask[:, :, z])
        if len(voxels) > 8:
            x, y = (voxels.mean(0) + np.array([box[0].start, box[1].start])) * spacing[:2]
            radius = np.sqrt(len(voxels) * spacing[0] * spacing[1] / np.pi)
            rows.append([(z + box[2].start) * spacing[2], x, y, radius])
    line = np.asarray(rows)
    line[:, 3] = np.median(line[:, 3])
    return line


def _body(anatomy: Anatomy, level: str) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half-widths in mm of a vertebral body, its arch and processes left out."""
    label = number(f"vertebrae_{level}")
    box = anatomy.boxes[label - 1]
    assert box is not None
    spacing = np.array(anatomy.spacing_mm)
    voxels = np.argwhere(anatomy.labels[box] == label) * spacing + [
        p.start * s for p, s in zip(box, spacing, strict=True)
    ]
    back, front = voxels[:, 1].min(), voxels[:, 1].max()
    voxels = voxels[voxels[:, 1] > front - _BODY_SHARE * (front - back)]
    middle = np.median(voxels, axis=0)
    core = voxels[np.abs(voxels[:, 0] - middle[0]) < 18]
    low, high = np.quantile(core, 0.02, axis=0), np.quantile(core, 0.98, axis=0)
    half = (high - low) / 2 + spacing / 2
    half[0] = max(half[0], 18.0)
    return (low + high) / 2, half
