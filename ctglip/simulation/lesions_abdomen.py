"""Lesions of liver, gallbladder, kidneys, bladder and aorta. Each is set against the organ's own measured HU."""

from __future__ import annotations

import numpy as np

from ctglip.simulation.canvas import smooth_noise
from ctglip.simulation.labels import lookup, number
from ctglip.simulation.scene import Lesion, Scene, eroded, soft_tissue


def hepatic_steatosis(scene: Scene, organ: str, rng: np.random.Generator) -> list[Lesion]:
    """The liver's tissue loses 28 to 52 HU (more with contrast); its vessels stay, and so look bright."""
    box = scene.box([organ])
    assert box is not None
    median, mask, hu = scene.median_hu(organ), scene.mask([organ], box), scene.hu[box]
    drop = float(rng.uniform(28, 52)) * (1.25 if scene.contrast else 1.0)
    share = np.ones(hu.shape, np.float32)
    if scene.contrast is not None:
        low, high = (16.0, 400.0) if scene.contrast else (-22.0, -8.0)
        share = np.where((hu > median + low) & (hu < median + high), np.float32(0.2), share)
    share = share * (1 + 0.06 * smooth_noise(hu.shape, 9, rng))
    hu -= (drop * share * mask).astype(np.float32)
    centre = np.argwhere(mask).mean(0) + [part.start for part in box]
    return [scene.lesion("hepatic_steatosis", organ, centre, scene.reach_mm(mask))]


def liver_cyst(scene: Scene, organ: str, rng: np.random.Generator) -> list[Lesion]:
    """One to three sharp, round, water-dense cysts."""
    median, found = scene.median_hu(organ), []
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        radius = scene.size_mm(rng, 9, 25)
        centre = scene.spot([organ], radius, rng, 0.95)
        if centre is None:
            continue
        value = min(float(rng.uniform(1, 12)), median - 22)
        scene.paint(
            centre, radius * rng.uniform(0.9, 1.0, 3), value, rng, edge_mm=2.5, rough=0.03, over=lookup([organ])
        )
        found.append(scene.lesion("liver_cyst", organ, centre, radius))
    return found


def liver_metastasis(scene: Scene, organ: str, rng: np.random.Generator) -> list[Lesion]:
    """Three to seven ill-defined masses, darker than the liver, or brighter than a very fatty one."""
    median, found = scene.median_hu(organ), []
    difference = float(rng.uniform(20, 31)) * (1.5 if scene.contrast else 1.0)
    value = median - difference if median > 34 else median + difference
    for _ in range(int(rng.integers(3, 8))):
        radius = scene.size_mm(rng, 8, 18)
        centre = scene.spot([organ], radius, rng, 0.9)
        if centre is None:
            continue
        scene.paint(centre, radius, value, rng, edge_mm=5, rough=0.14, over=lookup([organ]))
        core = value - 10 if value < median else value - 6
        scene.paint(centre, radius * 0.5, core, rng, edge_mm=5, rough=0.2, over=lookup([organ]))
        found.append(scene.lesion("liver_metastasis", organ, centre, radius))
    return found


def gallstone(scene: Scene, organ: str, rng: np.random.Generator) -> list[Lesion]:
    """One to five dense stones in the part of the gallbladder that lies lowest."""
    return _dependent_stones(scene, organ, "gallstone", rng, int(rng.integers(1, 6)), (3.2, 7), (130, 520))


def bladder_stone(scene: Scene, organ: str, rng: np.random.Generator) -> list[Lesion]:
    """One or two dense stones at the back of the bladder."""
    return _dependent_stones(scene, organ, "bladder_stone", rng, int(rng.integers(1, 3)), (5.5, 11), (350, 950))


def _dependent_stones(
    scene: Scene,
    organ: str,
    abnormality: str,
    rng: np.random.Generator,
    count: int,
    radii_mm: tuple[float, float],
    hu: tuple[float, float],
) -> list[Lesion]:
    box = scene.box([organ])
    assert box is not None
    mask = scene.mask([organ], box)
    deep = eroded(mask)
    voxels = np.argwhere(deep if deep.any() else mask)
    low = voxels[voxels[:, 1] <= np.quantile(voxels[:, 1], 0.15)] + [part.start for part in box]
    value, found = float(rng.uniform(*hu)), []
    for _ in range(count):
        radius = scene.size_mm(rng, *radii_mm)
        centre = low[rng.integers(len(low))] + np.array([0, radius * 0.4 / scene.spacing_mm[1], 0])
        scene.paint(centre, radius, value, rng, edge_mm=1.5, rough=0.05, over=lookup([organ]))
        found.append(scene.lesion(abnormality, organ, centre, radius))
    return found


def renal_stone(scene: Scene, organ: str, rng: np.random.Generator) -> list[Lesion]:
    """One to three dense stones in the calyces."""
    middle, half, _ = _kidney(scene, organ)
    value, found = float(rng.uniform(450, 1100)), []
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        radius = scene.size_mm(rng, 2.6, 5.5)
        centre = middle + rng.uniform(-1, 1, 3) * half * [0.25, 0.2, 0.6]
        scene.paint(centre, radius, value, rng, edge_mm=1.5, over=soft_tissue())
        found.append(scene.lesion("renal_stone", organ, centre, radius))
    return found


def renal_cyst(scene: Scene, organ: str, rng: np.random.Generator) -> list[Lesion]:
    """One or two round water-dense cysts that bulge from the cortex; the mask of the kidney does not change."""
    middle, half, inward = _kidney(scene, organ)
    median, found = scene.median_hu(organ), []
    free = lookup([organ])
    free[0] = True
    for _ in range(int(rng.choice([1, 1, 2]))):
        radius = scene.size_mm(rng, 8, 19)
        ways = rng.normal(0, 1, (16, 3)) - [0.5 * inward, 0, 0]
        ways /= np.linalg.norm(ways, axis=1, keepdims=True)
        positions = middle + ways * np.maximum(half - 0.55 * radius / scene.edges, 0.3 * half)
        room = [scene.share(position, radius, free) for position in positions]
        centre = positions[int(np.argmax(np.minimum(room, 0.9)))]
        if max(room) < 0.6:
            continue
        value = min(float(rng.uniform(0, 12)), median - 20)
        scene.paint(centre, radius, value, rng, edge_mm=2.0, over=free)
        found.append(scene.lesion("renal_cyst", organ, centre, radius))
    return found


def hydronephrosis(scene: Scene, organ: str, rng: np.random.Generator) -> list[Lesion]:
    """A wide water-dense renal pelvis that opens into wide calyces and the upper ureter."""
    middle, half, inward = _kidney(scene, organ)
    value, mm = float(rng.uniform(3, 11)), 1 / scene.edges
    free = lookup([organ])
    free[0] = True
    grade = float(rng.uniform(1.0, 1.5))
    pelvis = middle + np.array([inward * half[0] * 0.55, half[1] * 0.15, 0])
    wide = np.array([13.0, 10.0, 15.0]) * grade
    scene.paint(pelvis, wide, value, rng, edge_mm=2, rough=0.05, over=free)
    for up in (-0.55, -0.2, 0.2, 0.55):
        calyx = middle + np.array([inward * half[0] * 0.05, 0, up * half[2]]) + rng.normal(0, 1, 3) * mm * 2
        scene.paint(calyx, np.array([9.0, 8.0, 8.0]) * grade, value, rng, edge_mm=2, over=free)
    for step in range(12):
        ureter = pelvis + np.array([inward * 2, 1.0 * step, -(10 + 4.5 * step)]) * mm
        scene.paint(ureter, 4.5 * grade, value, rng, edge_mm=2, over=free)
    return [scene.lesion("hydronephrosis", organ, pelvis, 15 * grade)]


def _kidney(scene: Scene, organ: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Centre and half-widths in voxels of a kidney, and the sign of x towards the midline."""
    box = scene.box([organ])
    assert box is not None
    half = np.array([part.stop - part.start for part in box]) / 2
    middle = np.array([part.start for part in box]) + half - 0.5
    return middle, half, 1.0 if organ.endswith("left") else -1.0


def aortic_calcification(scene: Scene, organ: str, rng: np.random.Generator) -> list[Lesion]:
    """Dense plaques on the wall of the aorta."""
    box = scene.box([organ], 3)
    assert box is not None
    mask = scene.mask([organ], box)
    wall = np.argwhere(mask & ~eroded(mask)) + [part.start for part in box]
    found = []
    only = np.zeros(256, bool)
    only[number(organ)] = True
    for seed in wall[rng.integers(len(wall), size=int(rng.integers(6, 15)))]:
        radius = float(rng.uniform(4, 9))
        near = wall[(((wall - seed) * scene.edges) ** 2).sum(1) <= radius**2]
        a, b, c = near.T
        scene.hu[a, b, c] = np.maximum(scene.hu[a, b, c], rng.uniform(280, 750, len(near)))
        found.append(scene.lesion("aortic_calcification", organ, seed.astype(float), radius))
    return found
