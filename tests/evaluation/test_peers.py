"""Peers: their own preprocessing, prompts and texts, and what comes out of the command."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

from ctglip.cli.main import app
from ctglip.encoder_cards import encoder_card
from ctglip.errors import CTGLIPError
from ctglip.evaluation.peers.card import PeerCard, load_peer
from ctglip.evaluation.peers.images import lowest
from ctglip.evaluation.peers.model import Peer, load_peer_model
from ctglip.evaluation.peers.run import evaluate_peer
from ctglip.evaluation.peers.settings import PeerEvaluateConfig
from ctglip.evaluation.peers.text import TextSide, local_source
from ctglip.models.organ_attention import OrganAttention
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs
from ctglip.vocabulary.prompts import negative_prompts, positive_prompts
from tests.evaluation.small_peers import (
    PEERS,
    SMALL,
    card_of,
    encoder_of,
    peer_store,
    released_file,
    released_state,
    text_folder,
)
from tests.models.bad_files import Runs

RUN = CliRunner()
FINDINGS = {"merlin": ("gallstones", "ascites"), "fvlm": ("Cardiomegaly", "Emphysema")}


def findings_of(name: str) -> tuple[str, str]:
    return FINDINGS.get(name, ("Lung nodule", "Emphysema"))


def scans_of(name: str, studies: int = 12) -> list[tuple[str, str, np.ndarray, np.ndarray | None]]:
    """Scans that are a little larger and smaller than a peer's size; two of each patient."""
    rng, organs, found = np.random.default_rng(0), load_organs(), []
    for number in range(studies):
        shape = tuple(side + int(step) for side, step in zip(SMALL[name].size, rng.integers(-3, 4, 3), strict=True))
        hu = rng.integers(-900, 900, shape).astype(np.int16)
        labels = None
        if name == "fvlm":
            labels = np.zeros(shape, np.uint8)
            labels[4:40, 4:40, 4:20] = min(organs.labels_of("lungs"))
            labels[44:60, 10:40, 4:16] = min(organs.labels_of("heart"))
        found.append((f"s{number:02d}", f"p{number // 2:02d}", hu, labels))
    return found


def label_table(path: Path, name: str, studies: int = 12) -> Path:
    rows = {"study_id": [f"s{number:02d}" for number in range(studies)]}
    for shift, finding in enumerate(findings_of(name)):
        rows[finding] = [(number + shift) // 2 % 2 for number in range(studies)]
    pl.DataFrame(rows).write_csv(path)
    return path


def command(name: str, folder: Path, weights: Path | None = None) -> list[str]:
    """The command that evaluates a small peer."""
    store = folder / "store"
    if not store.exists():
        peer_store(store, name, scans_of(name))
    weights = weights or released_file(name, folder / "weights")
    return [
        "evaluate", "--model", str(card_of(name, folder)), "--weights", str(weights), "--text",
        str(text_folder(name, folder / "text")), str(store), str(folder / "out"), "--labels",
        str(label_table(folder / "labels.csv", name)), "--set", "draws=20", "--set", "device=cpu",
    ]  # fmt: skip


@pytest.mark.parametrize("name", PEERS)
def test_random_weights_in_the_released_names_go_through_the_command(name: str, tmp_path: Path) -> None:
    found = RUN.invoke(app, command(name, tmp_path))
    assert found.exit_code == 0, found.output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {pair["abnormality"] for pair in results["pairs"]} == set(findings_of(name))
    assert results["patients"] == 6
    assert results["studies"] == 12
    assert results["failures"] == []
    title, about = results["parts"]["protocol"]["model"], results["parts"]["peer"]
    assert title in found.output
    assert about["weights"] == command(name, tmp_path)[4]
    assert all(one in " ".join(results["notes"]) for one in about["unconfirmed"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert title in page
    assert "Zero-shot evaluation of" in page
    scores = pl.read_parquet(tmp_path / "out" / "scores.parquet")
    assert scores.height == 2 * 12
    assert scores["probability"].is_between(0, 1).all()
    assert scores["probability"].n_unique() > 12
    own = [row for row in results["parts"]["protocol"]["published"] if row["peer"] == name]
    assert len(own) == about["released"]
    assert bool(own) == (name in ("ct_clip", "fvlm", "hlip"))


PROMPTS = {
    "ct_clip": (
        ("Lung nodule is present.", "Lung nodule is not present."),
        ("Emphysema is present.", "Emphysema is not present."),
    ),
    "colipri": (("Lung nodule present", "No lung nodule present"), ("Emphysema present", "No emphysema present")),
    "spectre": (
        ("Lung nodule is present.", "Lung nodule is not present."),
        ("Emphysema is present.", "Emphysema is not present."),
    ),
    "hlip": (
        ("The volume shows: Lung nodule.", "The volume shows: Not lung nodule."),
        ("The volume shows: Emphysema.", "The volume shows: Not emphysema."),
    ),
    "fvlm": (("Cardiomegaly.", "Not Cardiomegaly."), ("Emphysema.", "Not Emphysema.")),
}
"""The very words that each peer's own code asks two findings in; Merlin's are not public."""


class KnowsPrompts(TextSide):
    """Gives a finding's positive prompts its own direction, its negative ones the opposite; all others a third one."""

    def __init__(self, prompts: Sequence[tuple[Sequence[str], Sequence[str]]]) -> None:
        nn.Module.__init__(self)
        self.known = {
            text: sign * torch.eye(3)[number]
            for number, sides in enumerate(prompts)
            for sign, side in zip((1, -1), sides, strict=True)
            for text in side
        }

    def forward(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([self.known.get(text, torch.eye(3)[2]) for text in texts])


def eighth(image: Tensor, orientation: str, where: str) -> Tensor:
    """The mean of the eighth of images ``[B, 1, D, H, W]`` that lies to the right or left, front or back, head or feet
    (``where``), of a network whose axes lead where ``orientation`` says."""
    for axis, letter in enumerate(orientation, start=2):
        side = image.shape[axis] // 2
        image = image.narrow(axis, side if letter in where else 0, side)
    return image.mean((1, 2, 3, 4))


PLANTED = ("LPS", "RAI")
"""Where the two findings are planted: the left back upper eighth, and the right front lower one."""


def planted_peer(name: str, prompts: Sequence[tuple[Sequence[str], Sequence[str]]]) -> Any:
    """What loads a peer that reads planted signals alone."""

    def load(card: PeerCard, weights: str, text_source: str | None) -> Peer:
        del weights, text_source
        encoder = encoder_of(name)
        expected = encoder.ct_input
        middle = ((expected.range[0] + expected.range[1]) / 2 - expected.mean) / expected.std

        def features(image: Tensor) -> tuple[tuple[Tensor, ...], Tensor | None]:
            outside = image <= lowest(encoder) + 1e-4
            image = (image - middle).where(~outside, 0)
            if card.organs is not None:
                return (F.avg_pool3d(image, (16, 16, 32)),), None
            assert sorted(image.shape[2:]) == sorted(SMALL[name].size)
            found = [eighth(image, expected.orientation, where) for where in PLANTED]
            return (image,), torch.stack([*found, torch.zeros(1)], dim=1)

        encoder.features = features  # type: ignore[method-assign]
        attention = PlantedAttention() if card.organs is not None else None
        size = card.size or expected.size
        return Peer(card, encoder, KnowsPrompts(prompts), None, None, attention, 5.0, size)

    return load


class PlantedAttention(OrganAttention):
    """The mean of an organ's tokens: the heart's along the first finding's direction, the lungs' along the second's."""

    def __init__(self) -> None:
        super().__init__(4, 4, 3)

    def forward(self, levels: Sequence[Tensor], inside: Tensor, organ_id: Tensor, study_index: Tensor) -> Tensor:
        del study_index
        value = levels[-1].flatten()[inside[0]].mean()
        return F.normalize(value * torch.eye(3)[0 if organ_id.item() == 1 else 1], dim=0)[None]


def planted_scans(
    name: str, truth: np.ndarray, rng: np.random.Generator
) -> list[tuple[str, str, np.ndarray, np.ndarray | None]]:
    """Scans whose findings are bright where they are planted, dark where they are absent; two studies a patient."""
    expected, organs, found = encoder_card(name).ct, load_organs(), []
    assert expected is not None
    low, high = expected.window_hu
    for number, (first, second) in enumerate(truth):
        shape = tuple(side + int(step) for side, step in zip(SMALL[name].size, rng.integers(-2, 3, 3), strict=True))
        hu = rng.normal((low + high) / 2, (high - low) / 20, shape)
        labels = None
        places = [eighth_of(hu, where) for where in PLANTED]
        if name == "fvlm":
            labels = np.zeros(shape, np.uint8)
            places = [(slice(56, 92), slice(4, 44), slice(4, 22)), (slice(2, 26), slice(4, 44), slice(4, 22))]
            for organ, place in zip(("heart", "lungs"), places, strict=True):
                labels[place] = min(organs.labels_of(organ))
        for place, there in zip(places, (first, second), strict=True):
            hu[place] += (high - low) * (0.2 if there else -0.2)
        found.append((f"s{number:02d}", f"p{number // 2:02d}", np.rint(hu).astype(np.int16), labels))
    return found


def eighth_of(hu: np.ndarray, where: str) -> tuple[slice, ...]:
    """An eighth of a scan (RAS+)."""
    middles = [side // 2 for side in hu.shape]
    upper = [letter in "RAS" for letter in where]
    return tuple(slice(middle, None) if up else slice(0, middle) for middle, up in zip(middles, upper, strict=True))


def merlins_prompts() -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
    """The dictionary's ensembles of Merlin's two findings."""
    organs = load_organs()
    names = (("gallstone", "gallbladder"), ("ascites", "peritoneum"))
    entries = [(load_abnormalities(organs=organs)[one], organs[organ]) for one, organ in names]
    return tuple((positive_prompts(*entry), negative_prompts(*entry)) for entry in entries)


@pytest.mark.parametrize("name", PEERS)
def test_a_planted_signal_is_found_and_permuted_labels_are_chance(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    truth = np.repeat(rng.permuted(np.tile([[0, 1], [1, 0]], (10, 1)), axis=0), 2, axis=0)
    store = peer_store(tmp_path / "store", name, planted_scans(name, truth, rng))
    prompts = merlins_prompts() if name == "merlin" else [[(one,), (other,)] for one, other in PROMPTS[name]]
    card, names = card_of(name, tmp_path), findings_of(name)

    def evaluated(labels: np.ndarray) -> Any:
        rows = {"study_id": [f"s{number:02d}" for number in range(len(labels))]}
        rows |= {finding: labels[:, column] for column, finding in enumerate(names)}
        pl.DataFrame(rows).write_csv(tmp_path / "labels.csv")
        config = PeerEvaluateConfig(draws=200, device="cpu")
        return evaluate_peer(
            str(card), "none", store.path, tmp_path / "out", labels=tmp_path / "labels.csv", config=config,
            load=planted_peer(name, prompts),
        )  # fmt: skip

    found = evaluated(truth)
    assert [pair.auroc.value for pair in found.pairs] == [1.0, 1.0]
    assert (found.macro_auroc.low, found.macro_auroc.high) == (1.0, 1.0)
    assert found.patients == 20
    permuted = np.repeat(truth[::2][rng.permutation(20)], 2, axis=0)
    chance = evaluated(permuted).macro_auroc
    assert chance.low < 0.5 < chance.high


def refused(*arguments: str) -> str:
    """The one line that a command ends with."""
    found = RUN.invoke(app, list(arguments))
    assert found.exit_code != 0
    assert isinstance(found.exception, CTGLIPError), found.output
    assert "\n" not in str(found.exception)
    return str(found.exception)


def test_what_cannot_be_used_ends_with_one_line_and_runs_nothing(tmp_path: Path) -> None:
    whole = command("hlip", tmp_path)
    path, state = Path(whole[4]), released_state("hlip")

    def with_weights(value: object) -> str:
        torch.save(value, path)
        return refused(*whole)

    assert "None of the weights" in with_weights(released_state("merlin"))
    assert "Not all weights" in with_weights({"state_dict": dict(list(state.items())[:20])})
    texts = {name: value for name, value in state.items() if not name.startswith("text.")}
    assert "is of a far larger model than its weights (0 numbers)" in with_weights({"state_dict": texts})
    assert "text projection is missing" in with_weights({"state_dict": without(state, "text.proj.weight")})
    assert "hold no number 'logit_scale'" in with_weights({"state_dict": without(state, "logit_scale")})
    wide = state | {"text.proj.weight": torch.zeros(16, 25)}
    assert "of shape (16, 25), for vectors of 24" in with_weights({"state_dict": wide})
    narrow = state | {"text.proj.weight": torch.zeros(15, 24)}
    assert "of 15 numbers" in with_weights({"state_dict": narrow})
    broken = state | {"text.proj.weight": torch.full((16, 24), torch.nan)}
    assert "NaN" in with_weights({"state_dict": broken})
    released_file("hlip", path.parent)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "cannot be read" in refused(*whole)
    harmful = {"state_dict": state, "hook": Runs(tmp_path / "ran")}
    assert "more than tensors and plain values" in with_weights(harmful)
    assert not (tmp_path / "ran").exists()
    path.unlink()
    assert "No such file" in refused(*whole)
    assert not (tmp_path / "out").exists()


def without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key != name}


def test_names_and_places_that_are_wrong_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def network(*_: object) -> None:
        raise AssertionError("the network is asked")

    monkeypatch.setattr(socket, "getaddrinfo", network)
    whole = command("ct_clip", tmp_path)
    assert "Did you mean 'merlin'?" in refused("evaluate", "--model", "merlim", *whole[3:])
    assert "Did you mean 'ct_clip'?" in refused("evaluate", "--model", "CT-CLIP", *whole[3:])
    assert "hf download somebody/something" in refused(*whole[:4], "somebody/something", *whole[5:])
    nowhere = refused(*whole[:6], "somebody/texts", *whole[7:])
    assert "no copy of a model of that name" in nowhere
    assert "hf download somebody/texts" in nowhere
    copy = str(tmp_path / "text" / "config.json")
    with monkeypatch.context() as hub:
        hub.setattr("ctglip.evaluation.peers.text.try_to_load_from_cache", lambda *_: copy)
        assert local_source("somebody/texts") == str(tmp_path / "text")
    other = [*whole, "--set", "protocol=ct_rate_19"]
    assert "There is no protocol 'ct_rate_19'" in refused(*other)
    assert "are of --model" in refused("evaluate", "--weights", "x", "run", "store", "out")
    assert "needs its released file" in refused("evaluate", "--model", "merlin", "store", "out")
    assert "Expected STORE OUT with --model" in refused(
        "evaluate", "--model", "merlin", "--weights", "x", "run", "s", "o"
    )
    assert "Expected RUN STORE OUT without --model" in refused("evaluate", "store", "out")
    peer_store(tmp_path / "others", "hlip", scans_of("hlip", 2))
    made = refused(*whole[:7], str(tmp_path / "others"), *whole[8:])
    assert "spacing_mm [1.0, 1.0, 3.0] for [0.75, 0.75, 1.5]" in made
    assert "ctglip preprocess COHORT NEW_STORE --for ct_clip --set ct.segmentation=null" in made


def test_a_peer_that_reads_organs_needs_their_masks(tmp_path: Path) -> None:
    whole = command("fvlm", tmp_path)
    scans = [(study, patient, hu, None) for study, patient, hu, _ in scans_of("fvlm")]
    peer_store(tmp_path / "bare", "fvlm", scans)
    assert "reads lungs, heart, esophagus, aorta by their masks" in refused(
        *whole[:7], str(tmp_path / "bare"), *whole[8:]
    )


def test_studies_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    whole = command("colipri", tmp_path)
    shutil.rmtree(tmp_path / "store" / "studies" / "s03.zarr" / "image")
    found = RUN.invoke(app, whole)
    assert found.exit_code == 1
    assert "s03: it cannot be read." in found.output
    assert json.loads((tmp_path / "out" / "results.json").read_text())["studies"] == 11


def test_a_broken_study_of_the_split_val_is_no_failure_of_the_split_that_is_evaluated(tmp_path: Path) -> None:
    whole, store = command("merlin", tmp_path), tmp_path / "store"
    splits = pl.read_parquet(store / "splits.parquet")
    held_out = pl.col("study_id").is_in(["s00", "s01", "s02", "s03"])
    splits.with_columns(split=pl.when(held_out).then(pl.lit("val")).otherwise("split")).write_parquet(
        store / "splits.parquet"
    )
    shutil.rmtree(store / "studies" / "s01.zarr" / "image")
    found = RUN.invoke(app, whole)
    assert found.exit_code == 0, found.output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (results["studies"], results["failures"]) == (8, [])
    assert results["threshold_source"] == "best F1 on the split val"


def test_the_text_side_answers_with_the_files_own_weights(tmp_path: Path) -> None:
    """Another text model in the file is another answer, SPECTRE's updates are added to its folder's weights."""
    whole, scores = command("ct_clip", tmp_path), []
    for factor in (1.0, -1.0):
        state = released_state("ct_clip")
        name = "text_transformer.encoder.layer.1.output.dense.weight"
        torch.save(state | {name: factor * state[name]}, whole[4])
        assert RUN.invoke(app, whole).exit_code == 0
        scores.append(pl.read_parquet(tmp_path / "out" / "scores.parquet")["probability"].to_numpy())
    assert np.abs(scores[0] - scores[1]).max() > 1e-4
    folder = tmp_path / "spectre"
    folder.mkdir()
    card, text = load_peer(str(card_of("spectre", folder))), text_folder("spectre", folder / "text")
    weights = released_file("spectre", folder / "weights")
    peer = load_peer_model(card, str(weights), str(text))
    base = torch.load(text / "pytorch_model.bin")["layers.0.self_attn.q_proj.weight"]
    updates = torch.load(folder / "weights" / "spectre_qwen3_embedding_0.6B_lora.pt")
    down, up = (updates[f"layers.0.self_attn.q_proj.lora_{part}"] for part in "AB")
    found = dict(peer.text.model.named_parameters())["layers.0.self_attn.q_proj.weight"]
    torch.testing.assert_close(found.detach(), base + 4.0 * (up @ down))
    (folder / "weights" / "spectre_image_projection.pt").unlink()
    with pytest.raises(CTGLIPError, match="no spectre_image_projection"):
        load_peer_model(card, str(weights), str(text))


def test_thresholds_come_from_the_split_val_where_the_protocol_says_so(tmp_path: Path) -> None:
    whole = command("merlin", tmp_path)
    scans = [(f"v{study}", f"v{patient}", hu, labels) for study, patient, hu, labels in scans_of("merlin")]
    peer_store(tmp_path / "store", "merlin", scans, "val")
    table = pl.read_csv(tmp_path / "labels.csv")
    assert RUN.invoke(app, whole).exit_code == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["pairs"][0]["at"] is None
    both = pl.concat([table, table.with_columns(("v" + pl.col("study_id")).alias("study_id"))])
    both.write_csv(tmp_path / "both.csv")
    whole[whole.index("--labels") + 1] = str(tmp_path / "both.csv")
    assert RUN.invoke(app, whole).exit_code == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["studies"] == 12
    assert results["threshold_source"] == "best F1 on the split val"
    assert all(pair["at"]["threshold"] is not None for pair in results["pairs"])
