"""Are the numbers of a scan Hounsfield units? Decided by where the modes of air, lung, fat and soft tissue lie.

Every CT of a person shows the same few modes: air at -1000, lung around -850, fat around -100, soft tissue from 0 to
80, and less and less above. The modes of a histogram are looked for under the map that the numbers claim (none) and
under others (shifts, scales, a change of sign, a wrap), after constants at the ends have been taken out: padding, and
values that were cut off.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.signal import find_peaks

_LOW, _HIGH, _BIN = -1400, 3100, 5
"""What a scanner measures, noise in air and metal included; anything else is padding or no HU."""
_EDGES = np.arange(_LOW, _HIGH + _BIN, _BIN, dtype=np.float64)
_MID = (_EDGES[1:] + _EDGES[:-1]) / 2
_SMOOTH = np.array([1, 2, 3, 2, 1]) / 9
AIR, FAT, SOFT = (-1060, -935), (-140, -65), (-25, 115)
"""Where the mode of each lies in every CT, whatever the patient, the contrast and the tube's voltage."""
FEW = 130
"""Different numbers that a drawing or a label map has at most."""


@dataclass(frozen=True)
class Constant:
    """One number at an end of the histogram that far more voxels hold than its neighbours: padding, or a cut."""

    value: int
    share: float


@dataclass(frozen=True)
class Histogram:
    """How often each number occurs.

    Attributes:
        values: sorted whole numbers ``[n]``.
        counts: voxels of each ``[n]``.
        low: constants at the lower end, lowest first, at most two.
        high: the constant at the upper end, or none.
    """

    values: np.ndarray
    counts: np.ndarray
    low: tuple[Constant, ...]
    high: tuple[Constant, ...]

    @classmethod
    def of(cls, sample: np.ndarray) -> Histogram:
        """Of int16 numbers."""
        found = np.bincount(sample.ravel().astype(np.int32) + 32768, minlength=1 << 16)
        values = np.flatnonzero(found)
        return cls.from_counts(values - 32768, found[values])

    @classmethod
    def from_counts(cls, values: np.ndarray, counts: np.ndarray) -> Histogram:
        """Of sorted whole numbers and how often each occurs."""
        low = _constants(values, counts, 2)
        high = _constants(-values[::-1], counts[::-1], 1)
        return cls(values, counts, low, tuple(Constant(-one.value, one.share) for one in high))

    @cached_property
    def modes(self) -> list[float]:
        """The numbers that stand out, at most eight, the commonest first: on a scale of the numbers' own."""
        x, y = self.steps
        low, high = np.interp((0.002, 0.998), y, x)
        step = max(1.0, (high - low) / 250)
        edges = np.arange(low - 3 * step, high + 4 * step, step)
        height = np.convolve(np.diff(np.interp(edges, x, y)), _SMOOTH, "same")
        peaks, _ = find_peaks(height, height=8e-4)
        best = peaks[np.argsort(-height[peaks])][:8]
        return [float(edges[k] + step / 2) for k in best]

    @cached_property
    def steps(self) -> tuple[np.ndarray, np.ndarray]:
        """The cumulative share, as if each number stood for one unit: where it bends, and how high it is there."""
        positions = np.repeat(self.values.astype(np.float64), 2) + np.tile((-0.5, 0.5), len(self.values))
        total = np.cumsum(self.counts) / self.counts.sum()
        return positions, np.repeat(np.concatenate([[0.0], total]), 2)[1:-1]


def _constants(values: np.ndarray, counts: np.ndarray, most: int) -> tuple[Constant, ...]:
    found: list[Constant] = []
    total = counts.sum()
    for k in range(min(most, len(values) - 1)):
        near = counts[k + 1 : k + 16][values[k + 1 : k + 16] <= values[k] + 15]
        if counts[k] < 0.002 * total or counts[k] < 4 * near.max(initial=0):
            break
        found.append(Constant(int(values[k]), float(counts[k] / total)))
    return tuple(found)


@dataclass(frozen=True)
class Layout:
    """The histogram as HU under one map, ``number = scale * HU + shift``.

    Attributes:
        outside: share of the voxels, padding aside, that no scanner measures.
        density: share of the voxels in each 5 HU, padding left out.
        constants: what the low constants are in HU, and their shares, lowest first.
        most: of the voxels, the constant at the upper end.
        few: there are as few different numbers as in a drawing, without a scanner's noise.
    """

    scale: float
    shift: float
    outside: float
    density: np.ndarray
    constants: tuple[tuple[float, float], ...]
    most: float
    few: bool

    @classmethod
    def under(cls, histogram: Histogram, scale: float = 1.0, shift: float = 0.0) -> Layout:
        """The layout under one map; constants that would lie below -1100 HU (beyond a negative scale: anywhere) go."""
        ends = histogram.low if scale > 0 else histogram.high
        padding = [one for one in (*histogram.low, *histogram.high) if (one.value - shift) / scale < -1100]
        inner = [one for one in ends if one not in padding]
        x, y = histogram.steps
        share = np.diff(np.interp(_EDGES * scale + shift, x, y)) * np.sign(scale)
        left = max(1e-9, 1 - sum(one.share for one in padding))
        for one in padding:  # within -1400 to -1100 they were counted
            position = (one.value - shift) / scale
            if position > _LOW:
                share[int((position - _LOW) // _BIN)] = 0
        at = tuple(((one.value - shift) / scale, one.share / left) for one in inner)
        outside = max(0.0, 1 - share.sum() / left)
        tops = histogram.high if scale > 0 else histogram.low
        most = sum(one.share for one in tops if one not in padding and (one.value - shift) / scale > 60) / left
        return cls(scale, shift, outside, share / left, at, most, len(histogram.values) <= FEW)

    def share(self, low: float, high: float) -> float:
        """Share of the voxels from ``low`` to ``high`` HU."""
        return float(self.density[(low <= _MID) & (high >= _MID)].sum())

    @cached_property
    def smooth(self) -> np.ndarray:
        """The density without its noise."""
        return np.convolve(self.density, _SMOOTH, "same")

    @cached_property
    def modes(self) -> list[float]:
        """HU of the modes, lowest first: each holds 1 % of the voxels within 30 HU and stands out."""
        height = np.concatenate([[0.0], self.smooth, [0.0]])
        peaks, _ = find_peaks(height)
        _, properties = find_peaks(height, prominence=0)
        peaks = peaks[properties["prominences"] >= 0.2 * height[peaks]] - 1
        found = [float(_MID[k]) for k in peaks]
        return [one for one in found if self.share(one - 30, one + 30) >= 0.01]

    def mode(self, where: tuple[float, float]) -> float | None:
        """The highest mode of a range."""
        inside = [one for one in self.modes if where[0] <= one <= where[1]]
        return max(inside, key=lambda one: self.smooth[int((one - _LOW) // _BIN)], default=None)

    @cached_property
    def positions(self) -> dict[str, float]:
        """HU of air, fat and soft tissue, of those whose mode lies where CT puts it and holds more than a trace."""
        body = self.share(-200, _HIGH)
        cut = np.inf if self.cut is None else self.cut
        tissue = {"fat": self.mode(FAT), "soft tissue": self.mode(SOFT)}
        found = {"air": self.mode(AIR)} | {k: None if m is None or abs(m - cut) < 8 else m for k, m in tissue.items()}
        if found["air"] is None:
            found["air"] = next((one for one, _ in self.constants if -1100 <= one <= -900), None)
        return {
            name: where
            for name, where in found.items()
            if where is not None and self.share(where - 30, where + 30) >= 0.03 * body
        }

    @property
    def fine(self) -> bool:
        """Whether what lies at fat varies less than any scanner's noise."""
        where = self.positions.get("fat")
        return where is not None and self.share(where - 6, where + 6) > 0.7 * self.share(where - 40, where + 40)

    @property
    def cut(self) -> float | None:
        """HU at which low values were cut off, if not below everything that is of interest."""
        return self.constants[0][0] if self.constants and self.constants[0][0] > -900 else None

    def doubt(self) -> str:
        """Why this cannot be a CT of a person; empty where it can."""
        tissue, body = self.share(-200, 300), self.share(-200, _HIGH)
        if self.outside > 0.02:
            return f"{self.outside:.0%} of the voxels lie beyond what a scanner measures ({_LOW} to {_HIGH} HU)"
        if tissue < 0.003:
            return f"only {tissue:.2%} of the voxels have the HU of fat and soft tissue (-200 to 300)"
        if max(body - tissue, self.most) > 0.5 * body:
            return (
                f"{max(body - tissue, self.most) / body:.0%} of the body would be as dense as bone or at the upper end"
            )
        if not self._below_water():
            return "" if self.soft_alone else "nothing lies below water, neither air nor fat"
        if reason := self._spread(body):
            return reason
        thin = self.share(-1400, -210) >= 0.05 and (self.cut is None or self.cut < -450)
        return self._thin() if thin else self._tight(body)

    @property
    def soft_alone(self) -> bool:
        """A crop within soft tissue: its commonest value is soft tissue's, and nothing like a background is near."""
        constants = [where for where, _ in self.constants]
        modes = [one for one in self.modes if all(abs(one - where) > 10 for where in constants if where < -60)]
        if not modes or modes[0] < 12 or any(-60 < where < (12 if self.few else np.inf) for where in constants):
            return False
        top = max(modes, key=lambda one: self.smooth[int((one - _LOW) // _BIN)])
        return top < 90 and self.share(130, _HIGH) < 0.3 * self.share(-200, _HIGH)

    @property
    def crop(self) -> bool:
        """A crop without air: fat and soft tissue are in place, and no mode lies where neither they nor bone do."""
        if not {"fat", "soft tissue"} <= self.positions.keys() or self.constants:
            return False
        return all(FAT[0] <= one <= FAT[1] or one >= SOFT[0] for one in self.modes)

    def _below_water(self) -> bool:
        """Whether more than one number and noise around zero lies there."""
        lowest, taken = self.constants[0] if self.constants else (-np.inf, 0.0)
        if lowest > -100:
            return lowest < -20 and self.share(lowest + 3, -5) > 0.005
        return self.share(_LOW, FAT[1]) - taken > 0.001

    def _spread(self, body: float) -> str:
        """Tissue has two narrow modes, fat and soft tissue, however noisy the scan."""
        top = _MID[int(np.where((_MID > -200) & (_MID < 300), self.smooth, 0).argmax())]
        near = self.share(top - 50, top + 50) / body
        only_constant = self.share(-1400, -900) - sum(share for _, share in self.constants) < 0.005
        if near < (0.3 if only_constant else 0.25):
            return f"the tissue has no mode: only {near:.0%} of the body lie within 50 HU of its commonest value"
        return ""

    def _thin(self) -> str:
        """Where much is thinner than fat, its lowest mode is air, or lung in a crop of the lungs."""
        constants = [where for where, _ in self.constants]
        lowest = min((*self.modes, *constants), default=0.0)
        if lowest >= -200:
            return "what is thinner than fat has no mode: neither air nor lung"
        if "air" in self.positions and lowest >= AIR[0] - 40:
            return ""
        broad = self.share(lowest - 30, lowest + 30) < 0.6 * self.share(lowest - 150, lowest + 150)
        lung_alone = broad and self.share(-200, _HIGH) < 0.15 and all(abs(one - lowest) > 10 for one in constants)
        if -960 <= lowest <= -450 and (lung_alone or {"fat", "soft tissue"} <= set(self.positions)):
            return ""
        return f"the lowest mode lies at {lowest:.0f} HU, neither air (-1000) nor lung"

    def _tight(self, body: float) -> str:
        """A crop without air shows soft tissue, and fat where fat belongs."""
        if "soft tissue" not in self.positions and self.mode((115, 300)) is None:
            return "no mode lies where soft tissue does"
        if "fat" in self.positions:
            return ""
        stray = [m for m in self.modes if -450 <= m < SOFT[0] and not FAT[0] <= m <= FAT[1]]
        stray = [m for m in stray if abs(m - (self.cut or np.inf)) > 10 and self.share(m - 30, m + 30) >= 0.03 * body]
        if stray:
            return f"a mode lies at {stray[0]:.0f} HU, where neither fat (-100) nor soft tissue (0 to 80) does"
        fat = self.share(-200, -30) - sum(share for where, share in self.constants if -200 < where < -30)
        if fat < 0.15 * body and self.share(130, _HIGH) > 0.1 * body:
            return "there is neither air nor fat, but much that is denser than soft tissue"
        return ""
