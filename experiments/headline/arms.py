"""The arms of the ladder: each is another arm with one thing changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ctglip.training.pretrain_config import PretrainConfig

Folds = Literal["all", "first"]
WINDOWS = "[[-1000,1000],[-160,240],[-1000,-600]]"
"""Every arm sees a scan through these."""
HELD_OUT = ("liver_cyst", "renal_stone", "consolidation", "aortic_aneurysm")
"""Abnormalities that the arm ``untaught`` is never taught."""
READING = ("data", "model.regions", "objective")
"""What changes together where whole scans, crops or organs pooled in whole scans take each other's place."""


@dataclass(frozen=True)
class Arm:
    """One way to learn.

    Attributes:
        label: for people.
        config: the shipped config that is changed.
        changes: ``section.key=value``.
        parent: the arm that it differs from by one thing; None for the first.
        differs: that thing: one setting, or a node of settings (``READING``).
        budgets: how many times the steps of the others it is given.
        folds: trained without each anatomy, or without the first alone (one seed then).
        rung: part of the ladder; the others are controls and ablations.
    """

    label: str
    config: str
    changes: tuple[str, ...] = ()
    parent: str | None = None
    differs: tuple[str, ...] = ()
    budgets: int = 1
    folds: Folds = "all"
    rung: bool = False


_PLAIN = ("model.regions.pooling=mean", "objective.negatives=batch")
_CROPS = (f"data.crops.windows_hu={WINDOWS}", "data.sampling.batch=24", "model.regions.context=false", *_PLAIN)
_SCANS = (f"data.input.windows_hu={WINDOWS}", "data.keep_gb=4")
_RECIPE = ("model.regions.pooling=mean_peak", "model.regions.context=true")
_EIGHT, _RATE = "data.sampling.batch=8", ("optim.lr",)


def _crops(label: str, parent: str, differs: str, *changes: str, rung: bool = True) -> Arm:
    """Crops of organs with one setting that the parent has not; later changes win."""
    return Arm(label, "small/ctglip_cnn", (*_CROPS, *changes), parent, (differs,), rung=rung)


def _negatives(kind: str, batch: int) -> Arm:
    changes = (*_RECIPE, f"data.sampling.batch={batch}", f"objective.negatives={kind}")
    label = f"+ {kind.replace('_', '-')} negatives of the dictionary, batch {batch}"
    return _crops(label, "recipe" if batch == 24 else "recipe_8", "objective.negatives", *changes)


def _scans(label: str, parent: str | None, *changes: str, **more: Any) -> Arm:
    return Arm(label, "small/clip_global", (*_SCANS, *changes), parent, **more)


LADDER: dict[str, Arm] = {
    "report": _scans("whole scan, whole report (CLIP)", None, rung=True),
    "sentence": _scans("whole scan, sentences", "report", "data.text=sentence", differs=("data.text",), rung=True),
    "box": Arm(
        "organ crops by box", "small/ctglip_cnn", (*_CROPS, "data.crops.masked=false"), "sentence", READING, rung=True
    ),
    "mask": _crops("organ crops with masks", "box", "data.crops.masked"),
    "pool": Arm(
        "the paper's grounding: one encoded scan, masked means", "small/ctglip_pool", (*_SCANS, *_PLAIN), "mask",
        READING, rung=True,
    ),
    "peak": _crops("masks + soft maximum", "mask", "model.regions.pooling", _RECIPE[0]),
    "recipe": _crops("masks + soft maximum + surroundings", "peak", "model.regions.context", *_RECIPE),
    "random": _negatives("random", 24),
    "same_organ": _negatives("same_organ", 24),
    "recipe_8": _crops("the same, batch 8", "recipe", "data.sampling.batch", *_RECIPE, _EIGHT),
    "random_8": _negatives("random", 8),
    "same_organ_8": _negatives("same_organ", 8),
}  # fmt: skip
CONTROLS: dict[str, Arm] = {
    "permuted": _crops("texts permuted", "recipe", "data.permute_texts", *_RECIPE, "data.permute_texts=true",
                       rung=False),
    "mask_alone": _crops("mask alone: each organ filled with its mean HU", "recipe", "data.crops.fill", *_RECIPE,
                         "data.crops.fill=organ_mean", rung=False),
    "untaught": _crops("four abnormalities never taught", "recipe", "data.held_out", *_RECIPE,
                       f"data.held_out=[{','.join(HELD_OUT)}]", rung=False),
    "extremes": _crops("+ extremes below voxel size", "recipe", "data.crops.details", *_RECIPE,
                       "data.crops.details=[highest,lowest]", rung=False),
    "no_size": _crops("scale and volume withheld", "recipe", "model.regions.size", *_RECIPE,
                      "model.regions.size=false", rung=False),
    "finer": _crops("crops of 48 voxels", "recipe", "data.crops.grid", *_RECIPE, "data.crops.grid=[48,48,48]",
                    rung=False),
    "report_rate_low": _scans("CLIP, learning rate 0.0003", "report", "optim.lr=0.0003", differs=_RATE, folds="first"),
    "report_rate_high": _scans("CLIP, learning rate 0.003", "report", "optim.lr=0.003", differs=_RATE, folds="first"),
    "report_long": _scans("CLIP, ten budgets", "report", budgets=10, folds="first"),
}  # fmt: skip
ARMS: dict[str, Arm] = {**LADDER, **CONTROLS}
FEATURES: dict[str, str] = {
    "hand_features": "hand features: volume, mean, deviation, percentiles of HU",
    "volume_alone": "volume alone",
}
"""Controls that train no network: a logistic regression on the labels that reports give."""
LABELS: dict[str, str] = {**{name: arm.label for name, arm in ARMS.items()}, **FEATURES}


def config_of(arm: str, seed: int, steps: int, crops: Path) -> PretrainConfig:
    """The config of one run.

    Args:
        arm: name.
        seed: of the training.
        steps: of an arm with one budget.
        crops: folder in which runs share the crops that they cut.
    """
    from ctglip.config import load_settings

    chosen = ARMS[arm]
    count = steps * chosen.budgets
    common = (
        f"seed={seed}", f"optim.warmup={max(1, count // 10)}", f"loop.steps={count}", "loop.threads=1", "loop.pairs=0",
        "loop.trackers=[]", f"loop.checkpoint_every={max(10, count // 6)}", "loop.keep=1", "loop.device=cpu",
        "loop.validate_every=0", "data.threads=1",
    )  # fmt: skip
    if chosen.config == "small/ctglip_cnn":
        common += ("data.cache.keep=disk", f"data.cache.folder={crops.resolve()}")
    return load_settings(PretrainConfig, chosen.config, [*common, *chosen.changes])


def leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of a resolved config by its dotted name."""
    for name, value in tree.items():
        path = f"{above}.{name}" if above else name
        if isinstance(value, Mapping) and value:
            yield from leaves(value, path)
        else:
            yield path, value


def difference(arm: str) -> set[str]:
    """The settings in which an arm differs from its parent; those that differ by its budget are no setting of it."""
    parent = ARMS[arm].parent
    if parent is None:
        return set()
    own, other = (
        dict(leaves(config_of(name, 0, 100, Path("crops")).model_dump(mode="json"))) for name in (arm, parent)
    )
    missing = object()
    return {name for name in own.keys() | other.keys() if own.get(name, missing) != other.get(name, missing)}
