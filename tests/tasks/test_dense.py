"""Tokens of scans, cached once: what is in a folder of them, and what a command that makes them says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from ctglip.cli.main import app
from ctglip.data.scans import cut_scan
from ctglip.data.tokens import TokenFiles
from ctglip.errors import CTGLIPError
from ctglip.files import read_json
from ctglip.inference.heatmap import grid_affine
from ctglip.store.study import study_path
from ctglip.store.tables import Store
from ctglip.tasks.dense import embed_dense
from ctglip.training.assembly import assemble
from tests.training.conftest import SCANS, tiny_config
from tests.training.tiny import write_tiny_store, write_word_bert

ENCODER = {"name": "cnn", "widths": [8, 16], "blocks": [0, 1], "groups": 4, "train": "frozen"}
TOKENS = {
    "data": {**SCANS, "name": "tokens"},
    "model": {"encoder": ENCODER, "regions": {"name": "mask", "levels": [0, 1]}},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_tiny_store(tmp_path_factory.mktemp("dense") / "store", 8)[0]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_word_bert(tmp_path_factory.mktemp("bert") / "bert")


@pytest.fixture
def config(bert: Path, tmp_path: Path) -> Path:
    tree = tiny_config(bert, TOKENS).model_dump(mode="json")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**tree, "kind": "pretrain"}))
    return tmp_path / "config.yaml"


def called(*arguments: str | Path) -> tuple[int, str]:
    """The exit code of a command, and what it printed or the fault that it ended with."""
    done = CliRunner().invoke(app, [*map(str, arguments)])
    if isinstance(done.exception, CTGLIPError):
        return 2, str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_tokens_are_those_of_the_encoder(store: Store, config: Path, bert: Path, tmp_path: Path) -> None:
    found = embed_dense(config, store.path, tmp_path / "tokens", precision="fp32")
    assert (found.studies, found.already, found.failures) == (8, 0, ())
    settings = tiny_config(bert, TOKENS, {"data": {"folder": str(tmp_path / "tokens")}})
    encoder = assemble(store, tmp_path / "run", settings, "cpu").encoder
    assert encoder is not None
    study = store.study("s003")
    cut = cut_scan(study.image(), study.organs(), study.affine, settings.data.input)
    with torch.no_grad():
        vision = encoder.eval()(torch.from_numpy(cut.image(settings.data.input))[None])
    arrays = load_file(tmp_path / "tokens" / "s003.safetensors")
    for number, level in enumerate(vision.levels):
        np.testing.assert_allclose(arrays[f"level_{number}"], level[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(arrays["pooled"], vision.pooled[0].numpy(), atol=1e-5)
    assert cut.labels is not None
    assert {int(n): int(c.sum()) for n, c in zip(arrays["labels"], arrays["counts"], strict=True)} == {
        int(n): int((cut.labels == n).sum()) for n in np.unique(cut.labels)
    }


def test_the_affine_leads_from_a_cell_to_its_middle(store: Store, config: Path, tmp_path: Path) -> None:
    embed_dense(config, store.path, tmp_path / "tokens")
    files = TokenFiles(tmp_path / "tokens", store)
    arrays = load_file(tmp_path / "tokens" / "s000.safetensors")
    finest, study = files.source.levels[0], store.study("s000")
    step = (arrays["high"] - arrays["low"]) / 16
    voxels = grid_affine(arrays["low"], step, study.affine)
    cell = np.array([1, 2, 3])
    inside = cell * finest.strides[0] + (0 if files.source.anchor == ("first",) * 3 else (finest.strides[0] - 1) / 2)
    np.testing.assert_allclose(arrays["affine"] @ [*cell, 1], voxels @ [*inside, 1], atol=1e-6)


def test_what_is_there_is_kept_and_what_is_broken_made_again(store: Store, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokens"
    embed_dense(config, store.path, out)
    (out / "s001.safetensors").unlink()
    before, whole = load_file(out / "s002.safetensors"), (out / "s002.safetensors").read_bytes()
    (out / "s002.safetensors").write_bytes(whole[: len(whole) // 2])
    arrays = load_file(out / "s004.safetensors")
    save_file(arrays, out / "s004.safetensors", metadata={"study_id": "s004", "source": "another", "key": "x"})
    written = (out / "s003.safetensors").stat().st_mtime_ns
    again = embed_dense(config, store.path, out)
    assert (again.studies, again.already) == (3, 5)
    again_there = load_file(out / "s002.safetensors")
    assert again_there.keys() == before.keys()
    assert all(np.array_equal(again_there[name], value) for name, value in before.items())
    assert (out / "s003.safetensors").stat().st_mtime_ns == written
    assert sorted(path.name for path in out.iterdir() if path.suffix == ".tmp") == []


def test_one_bad_study_does_not_stop_it(config: Path, tmp_path: Path) -> None:
    bad, _ = write_tiny_store(tmp_path / "store", 6)
    for file in study_path(bad.path, "s002").rglob("*"):
        if file.is_file() and "image" in str(file):
            file.write_bytes(b"broken")
    code, text = called("embed", config, bad.path, tmp_path / "tokens", "--dense", "--json")
    assert code == 1
    assert "s002" in text
    found = json.loads(text[text.index("{") : text.rindex("}") + 1])
    assert found["studies"] == 5
    assert [failure["study_id"] for failure in found["failures"]] == ["s002"]
    assert not (tmp_path / "tokens" / "s002.safetensors").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--set", "data={name: crops}", "--set", "model.regions=null"), "tokens are of whole scans"),
        (("--set", "data.input.grid=[15,16,16]"), "must be multiples"),
        (("--encoder", "spectre"), "go together"),
        (("--encoder", "spectra", "--weights", "x.pt"), "There is no released encoder 'spectra'"),
        (("--organ", "liver"), "--dense is of whole scans"),
        (("--set", "model.regions.levels=[5]"), "the encoder has 2 levels"),
    ],
)
def test_faults_are_named(store: Store, config: Path, tmp_path: Path, more: tuple[str, ...], message: str) -> None:
    code, text = called("embed", config, store.path, tmp_path / "tokens", "--dense", *more)
    assert code == 2
    assert message in text
    assert not (tmp_path / "tokens").exists()


def test_other_tokens_are_not_written_over(store: Store, config: Path, tmp_path: Path) -> None:
    embed_dense(config, store.path, tmp_path / "tokens")
    code, text = called("embed", config, store.path, tmp_path / "tokens", "--dense", "--set", "seed=3")
    assert code == 2
    assert "were made otherwise (weights)" in text
    assert read_json(tmp_path / "tokens" / "tokens.json")["precision"] == "fp16"


def test_options_of_dense_are_refused_without_it(store: Store, tmp_path: Path) -> None:
    code, text = called("embed", "run", store.path, tmp_path / "out", "--precision", "fp32")
    assert code == 2
    assert "Add --dense" in text
