"""Bodies with the HU of textbooks (air -1000, lung -850, fat -105, muscle 45, bone 250 to 1200), with noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

SHAPE = (80, 64, 48)
MIDDLE = (40, 32, 24)


def ball(centre: tuple[float, ...], radius: tuple[float, ...]) -> np.ndarray:
    return sum(((g - c) / r) ** 2 for g, c, r in zip(np.indices(SHAPE), centre, radius, strict=True)) < 1


LUNGS = ball((26, 34, 30), (10, 14, 18)) | ball((54, 34, 30), (10, 14, 18))
CIRCLE = np.hypot(np.arange(80)[:, None] - 39.5, np.arange(64)[None] - 31.5) > 33


def scanned(hu: np.ndarray, noise: float, floor: int = -1024) -> np.ndarray:
    """int16, with white and smooth noise, and nothing below the floor."""
    rng = np.random.default_rng(7)
    smooth = gaussian_filter(rng.normal(0, noise, hu.shape), 1)
    return np.rint(np.maximum(gaussian_filter(hu, 0.5) + rng.normal(0, noise, hu.shape) + smooth, floor)).astype(
        np.int16
    )


def trunk(
    fat: float = 8, muscle: float = 45, contrast: float = 0, lungs: bool = False, radius: tuple[float, float] = (34, 26)
) -> np.ndarray:
    """HU without noise: fat around muscle, liver, aorta, kidney, bowel gas and a vertebra; lungs on wish."""
    hu = np.full(SHAPE, -1000.0)
    inner = ball(MIDDLE, (radius[0] - fat, radius[1] - fat, 80))
    hu[ball(MIDDLE, (*radius, 80))] = -105
    hu[inner] = muscle
    if fat > 3:
        hu[ball((40, 38, 24), (radius[0] - fat - 6, 5, 20)) & inner] = -100
    if lungs:
        hu[LUNGS & inner] = -850 + np.random.default_rng(1).normal(0, 60, int((LUNGS & inner).sum()))
    for centre, size, value in (
        ((52, 34, 12), (10, 10, 10), 58 + contrast / 2),
        ((40, 22, 24), (2.5, 2.5, 80), 40 + 1.2 * contrast),
        ((28, 24, 10), (4, 4, 6), 35 + contrast),
        ((34, 44, 8), (4, 4, 4), -950),
        ((40, 12, 24), (4, 3.5, 80), 700),
        ((40, 12, 24), (3.2, 2.7, 80), 250),
    ):
        hu[ball(centre, size) & inner] = value
    return hu


def head() -> np.ndarray:
    hu = np.full(SHAPE, -1000.0)
    for radius, value in (((26, 30, 60), -60), ((24.5, 28.5, 58), 50), ((24, 28, 58), 1100), ((21.5, 25.5, 54), 33),
                          ((19, 23, 50), 28), ((4, 10, 10), 6)):  # fmt: skip
        hu[ball(MIDDLE, radius)] = value
    return hu


def legs() -> np.ndarray:
    hu = np.full(SHAPE, -1000.0)
    for x in (22, 58):
        for radius, value in ((16, -105), (13, 58), (4, 1200), (2.2, -60)):
            hu[ball((x, 32, 24), (radius, radius, 90))] = value
    return hu


def filled(hu: np.ndarray, where: np.ndarray, value: int) -> np.ndarray:
    hu = hu.copy()
    hu[where] = value
    return hu


CHEST = scanned(trunk(lungs=True), 15)
NATIVE = scanned(trunk(), 15)

BODIES: dict[str, Callable[[], np.ndarray]] = {
    "native abdomen": lambda: NATIVE,
    "chest": lambda: CHEST,
    "lean": lambda: scanned(trunk(fat=2), 12),
    "obese": lambda: scanned(trunk(fat=18, radius=(38, 31)), 30),
    "infant": lambda: scanned(trunk(fat=1, muscle=38, radius=(16, 12)), 25),
    "arterial phase": lambda: scanned(trunk(contrast=250), 15),
    "portal venous phase": lambda: scanned(trunk(contrast=120), 15),
    "low dose": lambda: scanned(trunk(), 60),
    "ultra-low dose": lambda: scanned(trunk(lungs=True), 100),
    "low dose without a floor": lambda: scanned(trunk(lungs=True), 60, -3000),
    "no noise": lambda: scanned(trunk(), 0),
    "head": lambda: scanned(head(), 6),
    "legs": lambda: scanned(legs(), 12),
    "a knee cropped": lambda: scanned(legs(), 12)[8:36, 18:46],
    "metal": lambda: filled(NATIVE, ball(MIDDLE, (3, 3, 80)), 3071),
    "bowel full of iodine": lambda: filled(NATIVE, ball(MIDDLE, (12, 10, 80)), 600),
    "ascites": lambda: scanned(np.where(ball((46, 36, 24), (20, 18, 60)), 12, trunk()), 12),
    "a slab": lambda: CHEST[..., 20:24],
    "a crop without air": lambda: NATIVE[22:58, 18:40],
    "a crop of the liver": lambda: scanned(trunk(), 15)[44:60, 26:42, 4:20],
    "a crop of the lungs": lambda: CHEST[16:36, 18:50, 12:46],
    "lungs alone": lambda: filled(CHEST, ~LUNGS, -1024),
    "padding -2000": lambda: filled(CHEST, CIRCLE, -2000),
    "padding -3024": lambda: filled(CHEST, CIRCLE, -3024),
    "padding -1024": lambda: filled(CHEST, CIRCLE, -1024),
    "padding -1500": lambda: filled(CHEST, CIRCLE, -1500),
    "padding -32768": lambda: filled(CHEST, CIRCLE, -32768),
    "rotated, filled with 0": lambda: filled(CHEST, CIRCLE, 0),
    "cut to -1000..1000": lambda: np.clip(NATIVE, -1000, 1000),
    "cut to -1000..400": lambda: np.clip(CHEST, -1000, 400),
    "cut to -1350..150": lambda: np.clip(CHEST, -1350, 150),
    "cut to -160..240": lambda: np.clip(NATIVE, -160, 240),
    "cut to -200..300": lambda: np.clip(CHEST, -200, 300),
}
"""Scans that are CT, however unusual."""


def turned_over(hu: np.ndarray, low: float, high: float, top: float) -> np.ndarray:
    return (np.clip(hu.astype(float), low, high) - low) / (high - low) * top


CORRUPTIONS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], set[str]]] = {
    "1024 too high": (lambda hu: hu + 1024, {"intercept_missing"}),
    "1024 too high, cut at 0": (lambda hu: np.maximum(hu + 1024, 0), {"intercept_missing"}),
    "1024 too high, padding -2000": (lambda hu: padded(hu + 1024, -2000), {"intercept_missing"}),
    "1024 too high, padding 0": (lambda hu: padded(hu + 1024, 0), {"intercept_missing"}),
    "1000 too high": (lambda hu: hu + 1000, {"intercept_missing"}),
    "8192 too high": (lambda hu: hu + 8192, {"intercept_8192"}),
    "8192 too low": (lambda hu: hu - 8192, {"intercept_8192"}),
    "1024 too low": (lambda hu: hu - 1024, {"rescale_twice"}),
    "4096 too high": (lambda hu: hu + 4096, {"hu_shifted"}),
    "200 too high": (lambda hu: hu + 200, {"hu_shifted"}),
    "500 too low": (lambda hu: hu - 500, {"hu_shifted"}),
    "wrapped into 12 bits": (lambda hu: hu % 4096, {"hu_wrapped"}),
    "negated": (lambda hu: -hu, {"hu_negated"}),
    "0 to 4095": (lambda hu: turned_over(hu, -1000, 1000, 4095), {"hu_scaled"}),
    "0 to 1000": (lambda hu: turned_over(hu, -1000, 1000, 1000), {"hu_scaled"}),
    "0 to 255": (lambda hu: turned_over(hu, -1000, 1000, 255), {"hu_scaled", "not_hu"}),
    "0 to 1": (lambda hu: turned_over(hu, -1000, 1000, 1), set()),
    "a window as 0 to 255": (lambda hu: turned_over(hu, -160, 240, 255), set()),
    "a window as 0 to 4095": (lambda hu: turned_over(hu, -160, 240, 4095), set()),
    "cut at 0": (lambda hu: np.maximum(hu, 0), {"not_hu"}),
    "absolute values": (np.abs, set()),
    "twice": (lambda hu: hu * 2, {"hu_scaled"}),
    "ten times": (lambda hu: hu * 10, {"hu_scaled"}),
    "attenuation in 1e-5 / mm": (lambda hu: (hu / 1000 + 1) * 1930, {"hu_scaled"}),
    "inverted": (lambda hu: 4095 - (hu + 1024), set()),
}
"""What befalls HU, and the codes that may name it where all modes are seen (an empty set: any)."""


def padded(values: np.ndarray, value: int) -> np.ndarray:
    x, y = (np.linspace(-1, 1, size) for size in values.shape[:2])
    return filled(values, np.hypot(x[:, None], y[None]) > 0.95, value)


def stored(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), -32768, 32767).astype(np.int16)


def others() -> dict[str, np.ndarray]:
    """Volumes that are no CT."""
    rng = np.random.default_rng(3)
    body = NATIVE > -500
    labels = np.zeros(SHAPE)
    for number, centre in ((5, (52, 34, 12)), (2, (28, 24, 10)), (52, (40, 22, 24))):
        labels[ball(centre, (8, 8, 8))] = number
    magnitude = np.abs(rng.normal(0, 12, SHAPE))
    two = np.abs(np.where(ball(MIDDLE, (20, 16, 20)), 600, np.where(body, 300, 0)) + rng.normal(0, 25, SHAPE))
    return {
        "MR, bright": magnitude + body * rng.gamma(6, 60, SHAPE),
        "MR, dark": magnitude + body * rng.gamma(2, 30, SHAPE),
        "MR, 12 bits": magnitude + body * rng.gamma(4, 400, SHAPE),
        "MR, two tissues": two,
        "MR, mean taken off": two - 400,
        "MR, normalised": 300 * np.where(body, rng.normal(0, 1, SHAPE), 0),
        "MR, phase": rng.uniform(-4096, 4095, SHAPE),
        "MR, background -1000": np.where(body, rng.normal(100, 150, SHAPE), -1000),
        "PET, SUV": body * rng.exponential(1, SHAPE),
        "PET, 1000 SUV": body * rng.exponential(400, SHAPE),
        "PET, Bq/ml": np.minimum(body * rng.exponential(3000, SHAPE), 32767),
        "PET, with noise": body * rng.exponential(400, SHAPE) + rng.normal(0, 20, SHAPE),
        "labels": labels,
        "labels times 12": labels * 12,
        "labels from -1": labels - 1,
        "labels on -1000": np.where(labels > 0, labels, -1000),
        "one label": labels > 0,
        "a mask as 1000": (labels > 0) * 1000,
        "noise": rng.uniform(-1000, 1000, SHAPE),
        "a ramp": np.indices(SHAPE).sum(0) * 10 - 900,
    }
