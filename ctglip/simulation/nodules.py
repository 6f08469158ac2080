"""Lung nodules as they are found: small and large, solid, part-solid and ground glass, on pleura and vessels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ctglip.simulation.draws import choose
from ctglip.simulation.labels import lookup
from ctglip.simulation.scene import Lesion, NoduleSettings, Scene, eroded


def nodules(scene: Scene, lobes: Sequence[str], rates: NoduleSettings, rng: np.random.Generator) -> list[Lesion]:
    """One to three nodules in a lung's lobes. The mask of the lobe does not change."""
    found = []
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        density = choose(rates.densities, rng)
        radius = _diameter_mm(choose(rates.sizes, rng), rng) / 2
        lobe, chance = str(rng.choice(lobes)), float(rng.random())
        centre = _spot(scene, lobe, radius, chance, rates, rng)
        if centre is None:
            continue
        if density == "solid":
            scene.paint(centre, radius, float(rng.uniform(10, 60)), rng, edge_mm=1, rough=0.1, over=lookup([lobe]))
            if radius >= 5 and rng.random() < rates.spiculated:
                _spikes(scene, centre, radius, lobe, rng)
        else:
            _subsolid(scene, centre, radius, lobe, density, rng)
        found.append(scene.lesion("lung_nodule", lobe, centre, radius, lobe, density))
    return found


def _diameter_mm(size: str, rng: np.random.Generator) -> float:
    low, high = (float(end) for end in size.split("-"))
    return float(np.exp(rng.uniform(np.log(low), np.log(high))) if low >= 8 else rng.uniform(low, high))


def _spot(
    scene: Scene, lobe: str, radius: float, chance: float, rates: NoduleSettings, rng: np.random.Generator
) -> np.ndarray | None:
    """Where a nodule goes: on the lobe's surface, on a vessel in it, or free inside."""
    box = scene.box([lobe])
    if box is None:
        return None
    if chance < rates.pleura + rates.vessel:
        mask = scene.mask([lobe], box)
        inner = eroded(mask)
        chosen = mask & ~inner if chance < rates.pleura else eroded(inner) & (scene.hu[box] > -450)
        voxels = np.argwhere(chosen)
        if len(voxels):
            return (voxels[rng.integers(len(voxels))] + [part.start for part in box]).astype(float)
    return scene.spot([lobe], radius, rng, 0.95)


def _subsolid(
    scene: Scene, centre: np.ndarray, radius: float, lobe: str, density: str, rng: np.random.Generator
) -> None:
    """Haze through which vessels stay visible; in a part-solid one, a solid core of 30 to 70 % of its diameter."""
    haze = float(rng.uniform(-720, -560))
    reach = np.ceil(radius * 1.8 / scene.edges).astype(int) + 3
    low = np.maximum(np.rint(centre).astype(int) - reach, 0)
    box = tuple(slice(a, b) for a, b in zip(low, np.rint(centre).astype(int) + reach + 1, strict=True))
    clear = scene.hu[box].copy()
    scene.paint(centre, radius, haze, rng, edge_mm=2.5, rough=0.15, over=lookup([lobe]))
    np.maximum(scene.hu[box], clear, out=scene.hu[box])
    if density == "part-solid":
        core = radius * float(rng.uniform(0.3, 0.7))
        away = rng.normal(0, 1, 3)
        away *= 0.5 * (radius - core) / np.linalg.norm(away)
        scene.paint(
            centre + away / scene.edges, core, float(rng.uniform(0, 45)), rng, edge_mm=1, rough=0.1, over=lookup([lobe])
        )


def _spikes(scene: Scene, centre: np.ndarray, radius: float, lobe: str, rng: np.random.Generator) -> None:
    """Five to nine thin strands that run out from the surface."""
    for way in rng.normal(0, 1, (int(rng.integers(5, 10)), 3)):
        way = way / np.linalg.norm(way)
        for step in np.linspace(0.9, 1.0 + float(rng.uniform(0.4, 0.8)), 5):
            thin = max(0.7, 0.16 * radius * (2.0 - step))
            scene.paint(centre + way * step * radius / scene.edges, thin, 20, rng, edge_mm=1, over=lookup([lobe]))
