"""The recipes of papers: each setting beside what is published of it, and two steps of training each."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from ctglip.cli.main import app
from ctglip.cli.origin import facts_of, is_equal, origins
from ctglip.config import load_settings, load_tree, merge, shipped_configs, validate
from ctglip.errors import ConfigError
from ctglip.models.dual_encoder import DualEncoder
from ctglip.training.assembly import model_parts
from ctglip.training.launch import pretrain
from ctglip.training.pretrain_config import PretrainConfig
from ctglip.training.tracking import read_metrics
from ctglip.vocabulary.organs import load_organs
from tests.test_settings import shrunk, without_downloads
from tests.training.conftest import ORGANS

PAPERS = [name for name in shipped_configs() if name.startswith("papers/")]
NAMES = {"imitate", "asg", "ecamp", "place", "ct_glip", "fvlm", "ct_clip", "hlip", "spectre_siglip", "merlin"}


def resolved(name: str) -> dict:
    return load_settings(PretrainConfig, name).model_dump(mode="json")


def test_there_is_a_recipe_and_its_facts_for_each_paper() -> None:
    assert {name.removeprefix("papers/") for name in PAPERS} == NAMES
    assert all(facts_of(name).facts for name in PAPERS)


@pytest.mark.parametrize("name", PAPERS)
def test_a_recipe_has_the_published_values_or_says_why_not(name: str) -> None:
    facts = facts_of(name)
    for one in origins(resolved(name), facts):
        if one.fact is None:
            continue
        if one.equal:
            assert one.fact.differs is None, f"{one.path} is as published, and is said to differ"
        else:
            assert one.fact.differs, f"{one.path} is {one.value}, published is {one.fact.value}, and nothing says why"
            assert one.fact.state != "ours"


@pytest.mark.parametrize("name", PAPERS)
def test_what_a_recipe_sets_has_a_source_or_is_called_ours(name: str) -> None:
    """Numbers of the recipe itself (not of its bases) are not left without a word."""
    tree = yaml.safe_load(shipped_configs()[name].read_text(encoding="utf-8"))
    tree.pop("extends", None)
    known = facts_of(name).facts
    silent = [path for path in paths(tree) if path.startswith(("optim.", "text.train")) and not covered(path, known)]
    assert not silent


def covered(path: str, known: dict) -> bool:
    return any(path == one or path.startswith(f"{one}.") or one.startswith(f"{path}.") for one in known)


def paths(node: object, position: str = "") -> list[str]:
    if not isinstance(node, dict):
        return [position]
    return [path for key, value in node.items() for path in paths(value, f"{position}.{key}" if position else key)]


@pytest.mark.parametrize("name", ["papers/imitate", "papers/merlin"])
def test_config_show_tells_where_values_come_from(name: str) -> None:
    found = CliRunner().invoke(app, ["config", "show", name, "--origin"]).output
    facts = facts_of(name)
    for path, fact in facts.facts.items():
        (line,) = (line for line in found.splitlines() if line.startswith(f"{path}: "))
        word = "differs" if fact.differs else {"confirmed": "published"}.get(fact.state, fact.state)
        assert f"[{word}]" in line
        assert fact.source in line
    assert all(one.what in found for one in facts.beyond)
    changed = CliRunner().invoke(app, ["config", "show", name, "--origin", "--set", "optim.lr=0.5"]).output
    assert "optim.lr: 0.5   [differs] published:" in changed


def test_a_config_without_facts_says_so() -> None:
    found = CliRunner().invoke(app, ["config", "show", "small/ctglip_cnn", "--origin"])
    assert isinstance(found.exception, ConfigError)
    assert "papers/*" in str(found.exception.fix)


def test_a_fact_of_no_setting_is_an_error() -> None:
    facts = facts_of("papers/asg")
    wrong = facts.model_copy(update={"facts": {**facts.facts, "optim.nothing": facts.facts["optim.lr"]}})
    with pytest.raises(ConfigError, match=r"optim\.nothing"):
        origins(resolved("papers/asg"), wrong)


def test_values_are_compared_as_what_they_mean() -> None:
    assert is_equal({"epochs": 21.0, "share": None}, {"epochs": 21})
    assert is_equal([0.1, 2], [0.1, 2.0])
    assert not is_equal([0.1], [0.1, 2])
    assert not is_equal(True, 1)
    assert not is_equal(0.07, 0.0700001)


def shrunken(name: str, bert: Path) -> PretrainConfig:
    """The recipe with small sizes, without weights and texts that would be fetched."""
    full = resolved(name)
    own = {
        "loop": {"steps": 2, "log_every": 1, "pairs": 0, "trackers": [], "precision": full["loop"]["precision"]},
        "data": {"organs": ORGANS} if full["data"]["name"] == "scans" else {},
    }
    if name == "papers/imitate":
        own["objective"] = {"aggregation": {"tokens": 200}}
    if name == "papers/merlin":  # its levels are 4 to 32 times as wide
        own["model"] = {"encoder": {"width": 4}}
    return validate(PretrainConfig, merge(without_downloads(shrunk(full), bert), own), name)


@pytest.mark.parametrize("name", PAPERS)
def test_a_recipe_trains(tiny, tiny_cxr, word_bert: Path, tmp_path: Path, name: str) -> None:
    config = shrunken(name, word_bert)
    store = (tiny_cxr if config.data.name == "cxr" else tiny)[0]
    pretrain(store.path, tmp_path / "run", config)
    lines = read_metrics(tmp_path / "run")
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize("name", PAPERS)
def test_a_recipe_builds_at_its_full_size(name: str) -> None:
    config = load_settings(PretrainConfig, name)
    organs = load_organs()
    settings, inputs = model_parts(config, 768, organs, organs.names)
    import torch

    with torch.device("meta"):
        model = DualEncoder(settings, inputs)
    assert sum(value.numel() for value in model.encoder.parameters()) > 2e7


def test_every_recipe_stands_on_shipped_bases() -> None:
    assert all(load_tree(name)["kind"] == "pretrain" for name in PAPERS)
