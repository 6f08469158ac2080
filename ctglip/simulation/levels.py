"""Named settings of the simulation: ``easy`` is what is there when everything is off, ``hard`` what figures are made
on; and which pairs can be judged between anatomies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ctglip.config import load_settings, load_tree, merge, validate
from ctglip.simulation.anatomy import Anatomy
from ctglip.simulation.labels import lookup
from ctglip.simulation.lesions import Kind, possible_kinds
from ctglip.simulation.study import SimulationSettings

Difficulty = Literal["easy", "hard"]
_CUT = 0.01
"""How much of a whole organ may lie on the grid's faces: the tip of a process, a stray voxel."""


def level_settings(level: Difficulty, config: Path | None = None, changes: Sequence[str] = ()) -> SimulationSettings:
    """The settings of a level (``hard.yaml``), changed by a config file and by ``a.b=c``, in this order.

    Raises:
        ConfigError: as in ``config.load_settings``.
    """
    if level == "easy":
        return load_settings(SimulationSettings, config, changes)
    hard = Path(__file__).with_name("hard.yaml")
    tree = load_tree(hard, changes) if config is None else merge(load_tree(hard), load_tree(config, changes))
    return validate(SimulationSettings, tree, str(config or f"level {level}"))


def comparable_pairs(held_out: Anatomy, training: Sequence[Anatomy]) -> tuple[str, ...]:
    """The ``organ:abnormality`` pairs that can be judged on an anatomy after training on others.

    A pair counts where its organ stands whole in the anatomy held out and in at least one of the training anatomies.
    """
    taught = {kind.pair for anatomy in training for kind in possible_kinds(anatomy) if _is_complete(anatomy, kind)}
    return tuple(kind.pair for kind in possible_kinds(held_out) if kind.pair in taught and _is_complete(held_out, kind))


def _is_complete(anatomy: Anatomy, kind: Kind) -> bool:
    """Whether the pair's organ ends inside of the anatomy's grid, but for a few voxels."""
    table = lookup([kind.needs or kind.organ])
    cut = sum(int(table[face].sum()) for face in _faces(anatomy.labels))
    return cut <= _CUT * table[anatomy.labels].sum()


def _faces(labels: np.ndarray) -> list[np.ndarray]:
    return [np.take(labels, end, axis) for axis in range(3) for end in (0, -1)]
