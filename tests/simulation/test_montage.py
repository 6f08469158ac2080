from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np

from ctglip.simulation.montage import draw_montage
from ctglip.simulation.study import SimulationSettings


def test_the_montage_shows_two_different_halves_of_each_tile(tmp_path: Path) -> None:
    path = draw_montage(tmp_path / "montage.png", 1, SimulationSettings(bodies=1, contrast=0, spacing_mm=6))
    picture = matplotlib.image.imread(path)[..., :3].mean(-1)
    assert picture.shape[0] > 1000
    assert 0.05 < np.mean((picture > 0.1) & (picture < 0.9)) < 0.95
    assert [file.name for file in tmp_path.iterdir()] == ["montage.png"]
