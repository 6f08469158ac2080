from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from ctglip.errors import ModelError
from ctglip.models.encoders.cnn import CNNSettings
from ctglip.models.encoders.nnunet import NNUNetSettings
from ctglip.models.region_readers import Regions
from ctglip.models.release import Release, load_release, save_release
from ctglip.models.text import TextEncoderSettings, load_text_encoder
from tests.models.building import dual_encoder


@pytest.fixture
def release(tiny_bert, tmp_path) -> Release:
    torch.manual_seed(3)
    encoder = load_text_encoder(TextEncoderSettings(name=str(tiny_bert), max_length=16))
    for name in ("organ_dictionary", "abnormality_dictionary"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name[:5]}.yaml").write_text("a: Ä\n", encoding="utf-8")
    shape = {"in_channels": 2, "dim": 16, "embedding_dim": 8, "text_dim": 16, "regions": {"name": "crop"}}
    return Release(
        model=dual_encoder(encoder=CNNSettings(widths=(8, 16), blocks=(0, 1)), **shape).eval(),
        organs=("liver", "spleen"),
        recipe={"spacing_mm": [3.0, 3.0, 3.0]},
        crops={"grid": [16, 16, 16]},
        organ_dictionary=tmp_path / "organ_dictionary",
        abnormality_dictionary=tmp_path / "abnormality_dictionary",
        text_settings=encoder.settings,
        text_hash=encoder.hash,
        prompts={"the liver": encoder.encode(["the liver"])[0]},
        calibration={"liver:cyst": {"threshold": 0.4}},
        provenance={"seed": 7},
        text_encoder=encoder,
    )


def answer(release: Release) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    image, mask, size = (torch.rand(2, *s, generator=generator) for s in ((2, 16, 16, 16), (1, 16, 16, 16), (4,)))
    with torch.no_grad():
        text = release.model.text(release.embed(["the liver", "a cyst"]))
        return release.model.diagnosis(release.model(image, Regions(mask=mask, size=size))) @ text.T


READ = """
import json, sys, torch
from pathlib import Path
from ctglip.models.region_readers import Regions
from ctglip.models.release import load_release
release = load_release(Path(sys.argv[1]))
g = torch.Generator().manual_seed(0)
image, mask, size = (torch.rand(2, *s, generator=g) for s in ((2, 16, 16, 16), (1, 16, 16, 16), (4,)))
with torch.no_grad():
    text = release.model.text(release.embed(["the liver", "a cyst"]))
    scores = release.model.diagnosis(release.model(image, Regions(mask=mask, size=size))) @ text.T
print(json.dumps(scores.tolist()))
"""


def test_a_fresh_process_without_network_answers_the_same(release, tmp_path, tiny_bert):
    folder = save_release(tmp_path / "run" / "model", release)
    expected = answer(release)
    copied = shutil.copytree(folder, tmp_path / "elsewhere")
    shutil.rmtree(tiny_bert)
    shutil.rmtree(folder)
    closed = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", READ, str(copied)], capture_output=True, text=True, env={**os.environ, **closed}
    )
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), expected, atol=1e-6, rtol=0)


def test_everything_comes_back(release, tmp_path):
    folder = save_release(tmp_path / "run" / "model", release)
    again = load_release(tmp_path / "run")
    for name in ("organs", "recipe", "crops", "text_settings", "text_hash", "calibration", "provenance"):
        assert getattr(again, name) == getattr(release, name)
    assert again.model.settings == release.model.settings
    assert again.model.inputs == release.model.inputs
    assert (again.organ_dictionary / "organ.yaml").read_text(encoding="utf-8") == "a: Ä\n"
    assert (again.abnormality_dictionary / "abnor.yaml").is_file()
    assert not again.model.training
    assert not list(folder.rglob("*.pt")) + list(folder.rglob("*.bin")) + list(folder.rglob("*.pkl"))


def test_an_nnunet_whose_layers_have_two_names_comes_back(release, tmp_path):
    shape = {"dim": 16, "embedding_dim": 8, "text_dim": 16, "in_channels": 2, "regions": {"name": "crop"}}
    encoder = NNUNetSettings(widths=(4, 8), blocks=(1, 1))
    release.model = dual_encoder(encoder=encoder, **shape).eval()
    expected = answer(release)
    again = load_release(save_release(tmp_path / "model", release))
    torch.testing.assert_close(answer(again), expected)
    state = load_file(tmp_path / "model" / "model.safetensors")
    save_file(
        {name: value for name, value in state.items() if "stem" not in name}, tmp_path / "model/model.safetensors"
    )
    with pytest.raises(ModelError, match="missing weights"):
        load_release(tmp_path / "model")


def test_stored_prompts_need_no_text_encoder(release, tmp_path):
    again = load_release(save_release(tmp_path / "model", release))
    assert torch.equal(again.embed(["the liver", "the liver"])[1], release.prompts["the liver"])
    assert again.text_encoder is None
    again.embed(["a cyst"])
    assert again.text_encoder is not None


def test_a_reference_holds_no_text_weights_and_checks_who_comes(release, tmp_path, tiny_bert, other_bert):
    folder = save_release(tmp_path / "model", release, reference_text_encoder=True)
    assert not list((folder / "text_encoder").glob("*.safetensors"))
    torch.testing.assert_close(answer(load_release(folder)), answer(release), atol=1e-6, rtol=0)
    shutil.copyfile(other_bert / "model.safetensors", tiny_bert / "model.safetensors")
    with pytest.raises(ModelError, match="was trained with"):
        load_release(folder).embed(["a cyst"])


def test_what_is_no_model_is_refused(release, tmp_path):
    with pytest.raises(ModelError, match="no config"):
        load_release(tmp_path)
    folder = save_release(tmp_path / "model", release)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="damaged"):
        load_release(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "format_version": 99}))
    with pytest.raises(ModelError, match="format version 99"):
        load_release(folder)


def test_a_text_encoder_that_was_trained_along_travels_with_its_prompts(release, tmp_path, tiny_bert):
    settings = TextEncoderSettings(name=str(tiny_bert), max_length=16, train={"name": "lora", "rank": 2})
    trained = load_text_encoder(settings)
    release.text_settings, release.text_encoder, release.text_hash = settings, trained, trained.hash
    for name, value in trained.named_parameters():
        if name.endswith(".up"):
            value.data.normal_()
    again = load_release(save_release(tmp_path / "model", release))
    torch.testing.assert_close(again.prompts["the liver"], trained.encode(["the liver"])[0])
    torch.testing.assert_close(again.embed(["a cyst"]), trained.encode(["a cyst"]), atol=1e-5, rtol=0)
    assert again.text_settings.train.name == "frozen"
    with pytest.raises(ModelError, match="must be stored"):
        save_release(tmp_path / "other", release, reference_text_encoder=True)


def test_a_loaded_model_is_saved_again_without_loading_its_text_encoder(release, tmp_path):
    first = save_release(tmp_path / "first", release)
    again = load_release(first)
    second = save_release(tmp_path / "second", again)
    assert again.text_encoder is None
    files = sorted(file.relative_to(first) for file in first.rglob("*") if file.is_file())
    assert files == sorted(file.relative_to(second) for file in second.rglob("*") if file.is_file())
    assert all((first / file).read_bytes() == (second / file).read_bytes() for file in files)
    again.text_hash = "another"
    with pytest.raises(ModelError, match="has hash"):
        save_release(tmp_path / "third", again)
