"""Lesions of lungs, pleura and pericardium."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ctglip.simulation.canvas import smooth_noise
from ctglip.simulation.labels import lookup, number
from ctglip.simulation.lungs import LOBES
from ctglip.simulation.nodules import nodules
from ctglip.simulation.scene import Lesion, Scene, depth_mm


def _side(organ: str) -> str:
    return "left" if organ.endswith("left") else "right"


def pleural_effusion(scene: Scene, organ: str, rng: np.random.Generator) -> list[Lesion]:
    """Fluid in the dependent pleural space: a crescent at the back that takes room, and the label, from the lung."""
    side = _side(organ)
    box = scene.box(LOBES[side])
    assert box is not None
    mask = scene.mask(LOBES[side], box)
    x, y, z = (np.arange(n, dtype=np.float32) * mm for n, mm in zip(mask.shape, scene.spacing_mm, strict=True))
    base = np.clip(1 - z / (0.75 * z[-1]), 0, 1)
    lateral = x if side == "left" else x[::-1]
    rise = 14 * np.exp(-lateral / 25)
    wave = 3 * smooth_noise(mask.shape, 6, rng)
    height = (y[None, :, None] - 45 * base[None, None, :] - rise[:, None, None] + wave)[mask]
    share = scene.size_mm(rng, 0.06, 0.32)
    level = np.quantile(height, share)
    fluid = np.zeros(mask.shape, bool)
    fluid[mask] = height < level
    fluid = ndimage.binary_opening(fluid) & mask
    hu, labels = scene.hu[box], scene.labels[box]
    squeezed = ndimage.binary_dilation(fluid, iterations=round(7 / scene.spacing_mm[0])) & mask & ~fluid
    hu[squeezed] += (float(rng.uniform(-60, 10)) - hu[squeezed]) * 0.75
    hu[fluid] = float(rng.uniform(3, 16))
    labels[fluid] = 0
    scene.soften(box, fluid)
    voxels = np.argwhere(fluid)
    if not len(voxels):
        return []
    centre = voxels.mean(0) + [part.start for part in box]
    depth = float(np.ptp(voxels[:, 1]) + 1) * scene.spacing_mm[1] / 2
    return [scene.lesion("pleural_effusion", organ, centre, depth, _amount(share))]


def _amount(share: float) -> str:
    return "small" if share < 0.14 else "moderate" if share < 0.24 else "large"


def lung_nodule(scene: Scene, organ: str, rng: np.random.Generator) -> list[Lesion]:
    """One or two solid nodules, 12 to 28 mm across, or what ``NoduleSettings`` asks for."""
    if scene.style.nodules is not None:
        return nodules(scene, LOBES[_side(organ)], scene.style.nodules, rng)
    found = []
    for _ in range(int(rng.choice([1, 1, 2]))):
        radius = float(rng.uniform(6, 14))
        lobe = str(rng.choice(LOBES[_side(organ)]))
        centre = scene.spot([lobe], radius, rng, 0.95)
        if centre is None:
            continue
        scene.paint(centre, radius, float(rng.uniform(20, 60)), rng, edge_mm=2, rough=0.12, over=lookup([lobe]))
        found.append(scene.lesion("lung_nodule", lobe, centre, radius, lobe))
    return found


def consolidation(scene: Scene, organ: str, rng: np.random.Generator) -> list[Lesion]:
    """Patchy opacity of one lobe with air bronchograms left open; the mask of the lobe does not change."""
    lobes = [lobe for lobe in LOBES[_side(organ)] if scene.box([lobe]) is not None]
    lobe = str(rng.choice(lobes))
    radius = scene.size_mm(rng, 24, 40)
    centre = scene.spot([lobe], radius, rng, 0.45)
    if centre is None:
        return []
    air = scene.hu.copy()
    value = float(rng.uniform(10, 45))
    box, done = scene.paint(centre, radius, value, rng, edge_mm=14, rough=0.4, over=lookup([lobe]))
    hu, before = scene.hu[box], air[box]
    holes = done & ((before < -930) | (smooth_noise(done.shape, 2.5, rng) > 1.5))
    hu[holes] = 0.35 * hu[holes] + 0.65 * before[holes]
    return [scene.lesion("consolidation", lobe, centre, radius, lobe)]


def emphysema(scene: Scene, organ: str, rng: np.random.Generator) -> list[Lesion]:
    """Both lungs darker, with holes of air that are denser towards the apices."""
    box = scene.box([organ])
    assert box is not None
    mask = scene.mask([organ], box)
    hu = scene.hu[box]
    tissue = mask & (hu < -650)
    apex = np.linspace(-0.55, 0.45, mask.shape[2], dtype=np.float32)
    holes = smooth_noise(mask.shape, 3.2, rng) + apex + float(rng.uniform(-0.2, 0.3)) > 0.75
    hu[tissue] -= float(rng.uniform(25, 50))
    hu[tissue & holes] = float(rng.uniform(-985, -965))
    np.clip(hu, -1000, None, out=hu)
    centre = np.argwhere(mask).mean(0) + [part.start for part in box]
    return [scene.lesion("emphysema", organ, centre, scene.reach_mm(mask))]


def pericardial_effusion(scene: Scene, organ: str, rng: np.random.Generator) -> list[Lesion]:
    """A shell of fluid around the heart, thicker below and behind, with the fat of the heart's surface between."""
    box = scene.box(["heart"], 30)
    assert box is not None
    heart = scene.mask(["heart", "atrial_appendage_left"], box)
    away = depth_mm(~heart, scene.spacing_mm)
    thick = float(rng.uniform(13, 24))
    y = np.linspace(0.25, -0.35, heart.shape[1], dtype=np.float32)[None, :, None]
    low = np.linspace(0.25, -0.6, heart.shape[2], dtype=np.float32)[None, None, :]
    labels, hu = scene.labels[box], scene.hu[box]
    lungs = lookup(["lungs"])[labels]
    room = lungs | ((labels == 0) & (hu < -20)) | (labels == number("pulmonary_vein"))
    fluid = ~heart & (away < thick * (1 + y + low) + 1.5 * smooth_noise(heart.shape, 6, rng)) & room
    hu[fluid] = np.where(away[fluid] < 1.2 * scene.spacing_mm[0], -55, float(rng.uniform(4, 18)))
    labels[fluid] = 0
    scene.soften(box, fluid)
    centre = np.argwhere(heart).mean(0) + [part.start for part in box]
    return [scene.lesion("pericardial_effusion", organ, centre, thick / 2)]
