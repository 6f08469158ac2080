"""The card of a model: only what is recorded, figures of this very model, licences of what it was started from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ctglip.errors import ModelError
from ctglip.files import file_checksum
from ctglip.models.card import started_from, write_card
from ctglip.models.encoders.cnn import CNNSettings
from ctglip.models.encoders.spectre import SpectreSettings
from ctglip.models.hub import HubModel
from ctglip.models.release import Release, load_release, save_release
from ctglip.models.text import TextEncoderSettings
from tests.models.test_release import release  # noqa: F401

INTERVAL = {"value": 0.8123, "low": 0.75, "high": 0.8666}
RESULTS: dict[str, Any] = {
    "macro_auroc": INTERVAL,
    "pairs": [
        {"organ": "liver", "abnormality": "hepatic_steatosis", "auroc": {"value": 0.9, "low": None, "high": None}},
        {"organ": "spleen", "abnormality": "splenomegaly", "auroc": {"value": None, "low": None, "high": None}},
    ],
    "patients": 41,
    "split": "test",
    "label_source": "labels.csv",
}


@pytest.fixture
def stored(release: Release, tmp_path: Path) -> Release:  # noqa: F811
    release.provenance = {
        "objective": "organ_text", "training_studies": 283, "studies": "abc", "steps": 500, "seed": 3,
        "failed_studies": ["x"], "validation": "split val", "trained": {"liver": ["hepatic_steatosis"], "spleen": []},
        "started_from": started_from(SpectreSettings(weights="cclaess/SPECTRE"), TextEncoderSettings(), None),
    }  # fmt: skip
    return load_release(save_release(tmp_path / "model", release))


def evaluation(folder: Path, of: Release, **changes: Any) -> Path:
    assert of.folder is not None
    folder.mkdir()
    checksum = file_checksum(of.folder / "model.safetensors")
    (folder / "results.json").write_text(json.dumps({**RESULTS, "model": checksum, **changes}))
    return folder


def test_it_says_what_is_recorded_and_nothing_else(stored: Release, tmp_path: Path) -> None:
    card = write_card(stored, tmp_path).read_text()
    assert card.startswith("---\nlibrary_name: ctglip\nlicense: other\n")
    for line in ("| objective | organ_text |", "| studies of the split train | 283 |", "| steps, seed | 500, 3 |",
                 "| left out as unreadable | 1 |", "- liver: hepatic steatosis", "| fingerprint of the store | abc |",
                 "None: this card was written without an evaluation", "not a medical device",
                 "code MIT, weights CC-BY-NC-SA-4.0", "SPECTRE (cclaess/SPECTRE)"):  # fmt: skip
        assert line in card, line
    assert "spleen" not in card
    assert "AUROC" not in card
    assert "started from random weights" not in card


def test_figures_are_those_of_an_evaluation_of_this_model(stored: Release, tmp_path: Path) -> None:
    card = write_card(stored, tmp_path, evaluation(tmp_path / "evaluation", stored)).read_text()
    assert "41 patients of the split test, labels: labels.csv" in card
    assert "| macro AUROC |  | 0.812 (0.750 to 0.867) |" in card
    assert "| liver | hepatic_steatosis | 0.900 |" in card
    assert "| spleen | splenomegaly | unknown |" in card


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model": "0" * 64}, "of another model"),
        ({"pairs": 3}, "no evaluation"),
        ({"macro_auroc": None}, "no evaluation"),
    ],
)
def test_other_figures_are_refused(stored: Release, tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ModelError, match=match):
        write_card(stored, tmp_path, evaluation(tmp_path / "evaluation", stored, **changes))
    assert not (tmp_path / "README.md").exists()


def test_a_folder_without_results_is_refused(stored: Release, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no evaluation of ctglip"):
        write_card(stored, tmp_path, tmp_path / "nowhere")


def test_a_model_of_before_says_what_is_not_recorded(release: Release, tmp_path: Path) -> None:  # noqa: F811
    release.provenance = {}
    card = write_card(release, tmp_path).read_text()
    assert "| objective | not recorded |" in card
    assert "What it was started from is not recorded" in card


def test_what_a_start_was_started_from_is_named_too(stored: Release) -> None:
    assert stored.folder is not None
    found = started_from(CNNSettings(weights=str(stored.folder)), TextEncoderSettings(name="me/bert"), None)
    assert [(one["part"], one["licence"]) for one in found] == [
        ("image encoder", "that of its owner"),
        ("image encoder", "code MIT, weights CC-BY-NC-SA-4.0"),
        ("text encoder", "not known here: read it where the weights are from"),
    ]
    random = started_from(CNNSettings(), TextEncoderSettings(), None)
    assert [one["part"] for one in random] == ["text encoder"]
    initial = started_from(CNNSettings(), TextEncoderSettings(), str(stored.folder))
    assert initial[0]["part"] == "whole model"
    file = started_from(CNNSettings(weights="timm:resnet18"), TextEncoderSettings(), None)
    assert file[0] == {"part": "image encoder", "name": "timm:resnet18", "licence": found[2]["licence"]}


def test_two_lines_load_a_folder_of_the_hub_and_its_card_is_ours(stored: Release, tmp_path: Path) -> None:
    import torch

    HubModel(stored).save_pretrained(tmp_path / "hub")
    assert "| objective | organ_text |" in (tmp_path / "hub" / "README.md").read_text()
    model = HubModel.from_pretrained(str(tmp_path / "hub"))
    images = torch.zeros(1, model.release.model.inputs.in_channels, *model.release.sides)
    assert model.image_features(images).pooled.shape == (1, model.release.model.encoder.pooled_dim)
