"""Every setting of every shipped config is read by what is built from it, or refused where nothing reads it."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import pkgutil
import sys
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ctglip_preprocessing
import pytest
import yaml

import ctglip
from ctglip.cli.config import settings_class
from ctglip.config import RootSettings, Settings, load_settings, load_tree, merge, shipped_configs, validate
from ctglip.data.organs import CropDataSettings
from ctglip.errors import ConfigError
from ctglip.evaluation.run import evaluate
from ctglip.evaluation.settings import EvaluateConfig
from ctglip.models.encoders.vit import ViTSettings
from ctglip.resources import resource
from ctglip.store.tables import Store
from ctglip.tasks.dense import embed_dense
from ctglip.tasks.settings import FinetuneConfig
from ctglip.tasks.tuning import finetune
from ctglip.training.assembly import assemble
from ctglip.training.launch import pretrain
from ctglip.training.optim import OptimSettings, build_optimizer
from ctglip.training.pretrain_config import DATA, PretrainConfig
from ctglip.training.schedule import learning_rate
from ctglip.training.trainer import LoopSettings
from ctglip.training.validation import build_validation
from tests.inference.tiny_cxr import cxr_release, saved
from tests.tasks.test_segmentation import write_lungs
from tests.training.tiny import write_tiny_radiographs, write_tiny_store, write_word_bert

ELSEWHERE = {
    ("papers/", "DualEncoderSettings.dim"): "of organs' features, and of heads that set no width of their own",
    ("papers/fvlm", "DualEncoderSettings.head_hidden"): "its organs have projections of their own",
    ("ecamp", "MaskingSettings.word"): "of reports without an entity: these reports of CTs all name one",
    ("finetune/head", "FitSettings.keep_gb"): "features of organs are cached; of others images are read",
    (
        "finetune/probe",
        "FitSettings.keep_gb",
    ): "features of organs are cached; of others images are read",
    ("finetune/label_fractions", "FitSettings.keep_gb"): "features of organs are cached; of others images are read",
    ("finetune/ct_report", "FitSettings.keep_gb"): "features of organs are cached; of others images are read",
    ("finetune/cxr_full", "AugmentSettings."): "refused when a model of radiographs is opened",
    ("evaluate/cxr", "EvaluateConfig.ignore"): "of a label table: these are evaluated by their reports' findings",
    ("evaluate/", "EvaluateConfig.unmentioned_as_negative"): "of reports: these have a label table",
}
"""Where a config does not read a setting that can be set: parts of both names, and why. Another reads it."""
FOR_READERS = {"Card.brings", "StoreInfo.unions", "PublishedTable.unit"}
"""Fields of shipped data and of stores that are there for people and other programs."""
ROOT = resource("configs")
CONFIGS = {name: load_tree(path) for name, path in shipped_configs().items()}
PRETRAIN, FINETUNE, EVALUATE = (
    [name for name, tree in CONFIGS.items() if tree["kind"] == kind] for kind in ("pretrain", "finetune", "evaluate")
)
SIZES: dict[str, Any] = {
    "grid": lambda v: [32] * 3 if len(v) == 3 and max(v) > 16 else v,
    "size": lambda v: v if isinstance(v, bool) else 32,
    "keep": lambda v: [0.5] * len(v) if isinstance(v, list) else v,
    "batch": lambda v: 8,
    "widths": lambda v: [8 * (n + 1) for n in range(len(v))],
    "blocks": lambda v: [min(n, 1) for n in v],
    "layers": lambda v: [1] * len(v) if isinstance(v, list) else 1,
    "patch": lambda v: 8 if isinstance(v, int) else [8] * len(v),
    "slices": lambda v: 8,
    "image_size": lambda v: 32 if isinstance(v, int) else [32] * len(v),
    "dim": lambda v: 48,
    "depth": lambda v: 4,
    "read": lambda v: [0, 1, 2],
    "heads": lambda v: 2,
    "hidden": lambda v: 32,
    "width": lambda v: 32,
    "embedding_dim": lambda v: 16,
    "vocabulary": lambda v: 400,
    "length": lambda v: 48 if v else v,
    "queries": lambda v: 4,
    "patches": lambda v: 4 if isinstance(v, int) else v,
    "tokens": lambda v: 32,
    "detail": lambda v: 2,
    "part": lambda v: v and [16] * len(v),
    "global_size": lambda v: 16,
    "local_size": lambda v: 8,
    "count": lambda v: 8,
}


def shrunk(tree: Any) -> Any:
    """The same settings with small sizes."""
    if not isinstance(tree, dict):
        return tree
    return {
        name: SIZES[name](value) if name in SIZES and not isinstance(value, dict) else shrunk(value)
        for name, value in tree.items()
    }


def nodes(node: Any, position: tuple[str, ...] = ()) -> Iterator[tuple[Settings, tuple[str, ...]]]:
    if isinstance(node, Settings):
        yield node, position
    children = node if isinstance(node, dict) else dict(node) if isinstance(node, Settings) else {}
    for name, child in children.items():
        yield from nodes(child, (*position, name))


class Reads:
    """Notes which fields of settings are read, by the class that declares them."""

    COPYING = ("whole_scans", "input", "unread", "_fits")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: set[tuple[type, str]] = set()

        def read(settings: Any, name: str) -> Any:
            if not name.startswith("_") and sys._getframe(1).f_code.co_name not in Reads.COPYING:
                self.found.add((home(type(settings), name), name))
            return object.__getattribute__(settings, name)

        monkeypatch.setattr(Settings, "__getattribute__", read)


@functools.cache
def home(kind: type, name: str) -> type:
    """The class that declares a field: of data it is read of, whatever kinds of data share it."""
    if not kind.__module__.startswith("ctglip.data."):
        return kind
    return next((base for base in reversed(kind.__mro__) if name in inspect.get_annotations(base)), kind)


def others(value: Any, field: Any) -> list[Any]:
    """Other values of a field, as plain data."""
    choices = [one for one in typing.get_args(field.annotation) if isinstance(one, str)]
    if choices:
        return [one for one in (*choices, "other") if one != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value / 2, 0.25, 1, 2]
    if isinstance(value, list):
        numbers = all(isinstance(one, int | float) for one in value)
        return [[2 * one for one in value] if numbers else value[:-1], ["liver"], [0.5]]
    return ["other", 1, True]


def is_refused(tree: dict[str, Any], position: Sequence[str], values: Sequence[Any]) -> bool:
    """Each of some values is an error at a place of a config."""
    for value in values:
        change: Any = value
        for name in reversed(position):
            change = {name: change}
        try:
            validate(settings_class(tree["kind"]), merge(tree, change), "test")
        except ConfigError:
            continue
        return False
    return True


def unread(config: RootSettings, reads: set[tuple[type, str]]) -> list[str]:
    """Fields that were not read, can be set, and are not proved elsewhere."""
    tree, found = config.model_dump(mode="json"), []
    for node, position in nodes(config):
        for name, field in type(node).model_fields.items():
            value = functools.reduce(lambda part, key: part[key], (*position, name), tree)
            at = f"{type(node).__name__}.{name}"
            if isinstance(value, dict) or (home(type(node), name), name) in reads:
                continue
            if not is_refused(tree, (*position, name), [one for one in others(value, field) if one != value]):
                found.append(at)
    return found


class Walk:
    """What several configs leave unread, and what any of them reads."""

    def __init__(self) -> None:
        self.left: list[tuple[str, str]] = []
        self.reads: set[str] = set()

    def add(self, name: str, config: RootSettings, reads: set[tuple[type, str]]) -> None:
        self.left += [(name, field) for field in unread(config, reads)]
        self.reads |= {f"{kind.__name__}.{field}" for kind, field in reads}

    def check(self) -> None:
        known = [(name, field) for name, field in self.left if any(a in name and b in field for a, b in ELSEWHERE)]
        assert set(self.left) - set(known) == set(), "nothing reads these settings, and they can be set"
        assert {field for _, field in known} <= self.reads, "no config reads these settings, and they can be set"


def shape(node: Any) -> Any:
    """What tells configs apart but for numbers: one of each shape is enough."""
    if isinstance(node, dict):
        return tuple((name, shape(value)) for name, value in sorted(node.items()))
    if isinstance(node, list | tuple):
        return tuple(map(shape, node)) if node and not isinstance(node[0], int | float | str) else bool(node)
    return node if isinstance(node, str | bool) else None if node is None else bool(node)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A store of each modality, and a text encoder."""
    folder = tmp_path_factory.mktemp("settings")
    made = {"ct": write_tiny_store(folder / "ct", 16), "cxr": write_tiny_radiographs(folder / "cxr", 16)}
    paths = {kind: store.path for kind, (store, _) in made.items()}
    return (
        paths
        | {f"{kind}_labels": table for kind, (_, table) in made.items()}
        | {"bert": write_word_bert(folder / "bert")}
    )


def small(name: str, bert: Path) -> PretrainConfig:
    """A shipped config with small sizes."""
    config = load_settings(PretrainConfig, name)
    return validate(PretrainConfig, without_downloads(shrunk(config.model_dump(mode="json")), bert), name)


def without_downloads(tree: dict[str, Any], bert: Path) -> dict[str, Any]:
    """A config with a text encoder that is there, no weights, and organs of tiny stores."""
    own: dict[str, Any] = {
        "text": {"name": str(bert), "max_length": 60},
        "model": {"encoder": {"weights": None}},
        "loop": {"device": "cpu", "threads": 1, "precision": "fp32"},
    }
    if tree["model"]["encoder"]["name"] == "hlip":
        own["model"]["encoder"]["embedding_dim"] = 512  # which nothing reads
    if tree["text"]["train"]["name"] == "lora":
        own["text"]["train"] = {"name": "lora", "layers": ["query", "key", "value", "dense"]}
    if tree["data"]["organs"] and "liver" not in tree["data"]["organs"]:
        own["data"] = {"organs": ["liver", "spleen", "kidney_left"]}
    return merge(tree, own)


def with_tokens(config: PretrainConfig, store: Path, folder: Path) -> PretrainConfig:
    """The same, with the tokens that its encoder makes of a store."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    embed_dense(folder / "config.yaml", store, folder / "tokens")
    data = config.data.model_copy(update={"folder": str(folder / "tokens")})
    return config.model_copy(update={"data": data})


def built(config: PretrainConfig, store: Path, run: Path) -> None:
    """Data, model, objective and optimizer of a config, and the losses of its first batch."""
    parts = assemble(Store.open(store), run, config, "cpu")
    parts.objective(parts.batch(0))
    build_optimizer(parts.objective, config.optim)
    learning_rate(9, 10, config.timed(5).optim.model_copy(update={"warmup": 1}))
    if parts.release.aligned:
        build_validation(Store.open(store), parts.release, parts.dictionaries, config.data)


@pytest.fixture(scope="module")
def looped(stores: dict[str, Path]) -> set[tuple[type, str]]:
    """What a whole run (on crops) reads of its loop and optimizer."""
    config = small("small/crops", stores["bert"])
    loop = config.loop.model_copy(update={"steps": 2, "validate_every": 1, "log_every": 1, "checkpoint_every": 1})
    with pytest.MonkeyPatch.context() as monkeypatch:
        reads = Reads(monkeypatch)
        pretrain(stores["ct"], stores["ct"].parent / "ct_run", config.model_copy(update={"loop": loop}))
    return {(kind, name) for kind, name in reads.found if kind in (LoopSettings, OptimSettings, PretrainConfig)}


def test_every_setting_of_pretraining_is_read_or_refused(
    stores: dict[str, Path], looped: set[tuple[type, str]], tmp_path: Path
) -> None:
    walk = Walk()
    seen = set()
    for name in PRETRAIN:
        config = small(name, stores["bert"])
        key = shape(config.model_dump(mode="json", exclude={"optim", "loop", "text"}))
        if key in seen:
            continue
        seen.add(key)
        with pytest.MonkeyPatch.context() as monkeypatch:
            reads = Reads(monkeypatch)
            if config.data.name == "tokens":
                config = with_tokens(config, stores["ct"], tmp_path / name / "made")
            built(config, stores["cxr" if config.data.name == "cxr" else "ct"], tmp_path / name)
        walk.add(name, config, reads.found | looped)
    walk.check()


@pytest.fixture(scope="module")
def runs(stores: dict[str, Path], looped: set[tuple[type, str]]) -> dict[str, Path]:
    """A run on each store."""
    config = small("small/cxr_asg", stores["bert"])
    loop = config.loop.model_copy(update={"steps": 2, "pairs": 0})
    pretrain(stores["cxr"], stores["cxr"].parent / "cxr_run", config.model_copy(update={"loop": loop}))
    return {kind: stores[kind].parent / f"{kind}_run" for kind in ("ct", "cxr")}


def test_every_setting_of_finetuning_is_read_or_refused(
    stores: dict[str, Path], runs: dict[str, Path], tmp_path: Path
) -> None:
    walk = Walk()
    encoder = ViTSettings(spatial_dims=2, patch=8, image_size=48, dim=32, depth=1, heads=2)
    vit = saved(tmp_path / "vit", cxr_release(stores["bert"], encoder=encoder))
    models = {
        **{kind: (runs[kind], stores[kind]) for kind in runs},
        "lungs": (vit, write_lungs(tmp_path / "l", 24).path),
    }
    for name in FINETUNE:
        kind = "lungs" if "cxr_segmentation" in name else "cxr" if "cxr" in name else "ct"
        fit = {"epochs": 1, "batch": 4, "device": "cpu"}
        labels = None if "segmentation" in name or "report" in name else stores[f"{kind}_labels"]
        results = {"draws": 10} if labels is None else {"draws": 10, "min_positives": 1}
        own: dict[str, Any] = {"segmentation": {"target": "lungs"}} if kind == "lungs" else {}
        own |= {"seeds": [0], "fractions": [0.5, 1.0], "evaluate": results, "fit": fit, "scratch_fit": fit}
        config = validate(FinetuneConfig, merge(CONFIGS[name], own), name)
        config = config.model_copy(update={"optim": config.optim.model_copy(update={"warmup": 1})})
        with pytest.MonkeyPatch.context() as monkeypatch:
            reads = Reads(monkeypatch)
            finetune(*models[kind], tmp_path / name.replace("/", "-"), labels, config)
        walk.add(name, config, reads.found)
    walk.check()
    shifted = validate(FinetuneConfig, {"mode": "full", "augment": {"shift_hu": 1}, "fit": {"device": "cpu"}}, "test")
    with pytest.raises(ConfigError, match="augment is of scans"):
        finetune(*models["cxr"], tmp_path / "shifted", stores["cxr_labels"], shifted)


def test_every_setting_of_evaluation_is_read_or_refused(
    stores: dict[str, Path], runs: dict[str, Path], tmp_path: Path
) -> None:
    walk = Walk()
    for name in EVALUATE:
        kind = "cxr" if "cxr" in name else "ct"
        labels = stores["ct_labels"] if kind == "ct" else None
        own = {"draws": 10, "min_positives": 1, "device": "cpu"}
        config = validate(EvaluateConfig, merge(CONFIGS[name], own), name)
        with pytest.MonkeyPatch.context() as monkeypatch:
            reads = Reads(monkeypatch)
            evaluate(runs[kind], stores[kind], tmp_path / name.replace("/", "-"), "train", labels, config)
        walk.add(name, config, reads.found)
    walk.check()


def test_an_ignored_setting_would_be_seen(stores: dict[str, Path], tmp_path: Path) -> None:
    """A field that nothing reads, in a class that is read otherwise."""

    class More(CropDataSettings):
        ignored: int = 1

    config = small("small/crops", stores["bert"])
    more = config.model_copy(update={"data": More(**dict(config.data))})
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(DATA, "crops", More)
        reads = Reads(monkeypatch)
        built(more, stores["ct"], tmp_path / "run")
        walk = Walk()
        walk.add("small/crops", more, reads.found)
    assert ("small/crops", "More.ignored") in walk.left
    assert ("small/crops", "More.negatives") not in walk.left
    with pytest.raises(AssertionError):
        walk.check()


def declared() -> Iterator[type[Settings]]:
    """Every settings class of the project."""
    for package in (ctglip, ctglip_preprocessing):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    found = [Settings]
    for kind in found:
        found += [one for one in kind.__subclasses__() if one.__module__.startswith("ctglip")]
    yield from found


def test_no_settings_class_has_a_field_that_no_file_names() -> None:
    sources = [path for package in (ctglip, ctglip_preprocessing) for path in Path(package.__path__[0]).rglob("*.py")]
    nodes_of = (ast.walk(ast.parse(path.read_text(encoding="utf-8"))) for path in sources)
    named = {node.attr for nodes in nodes_of for node in nodes if isinstance(node, ast.Attribute)}
    fields = {(kind.__name__, name) for kind in declared() for name in kind.model_fields}
    assert {f"{kind}.{name}" for kind, name in fields if name not in named} == FOR_READERS
