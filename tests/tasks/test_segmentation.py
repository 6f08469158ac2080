"""An organ is drawn on radiographs: heads, loss and Dice against formulas, and lungs found on simple radiographs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn import functional as F

from ctglip.config import load_settings, load_tree, merge, validate
from ctglip.cxr.picture import Radiograph
from ctglip.cxr.standardize import standardize_radiograph
from ctglip.errors import ConfigError, CTGLIPError
from ctglip.models.encoders import build_encoder
from ctglip.models.encoders.cnn import CNNSettings
from ctglip.models.encoders.vit import ViTSettings
from ctglip.models.release import load_release
from ctglip.store.format import StoreInfo
from ctglip.store.mask_classes import class_map, mask_classes
from ctglip.store.splits import SplitSettings, assign_splits
from ctglip.store.study import SourceGrid, StudyRecord, write_study
from ctglip.store.tables import Store, compact, create_store
from ctglip.tasks.segmentation import OrganSegmenter
from ctglip.tasks.segmentation_heads import (
    SegmentationNetwork,
    compare_masks,
    mask_loss,
    pooled_dice,
    segmentation_loss,
)
from ctglip.tasks.settings import FinetuneConfig, SegmentationTaskSettings
from ctglip.tasks.tuning import finetune
from ctglip.types import LesionAnnotation, Region, Standardized
from ctglip.vocabulary.organs import load_organs
from tests.inference.tiny_cxr import RECIPE, cxr_release, saved
from tests.tasks.kills import Killed, killed_after
from tests.training.tiny import write_word_bert


def config(**more) -> FinetuneConfig:
    fit = {"epochs": 25, "patience": 0, "batch": 8, "device": "cpu"}
    tree = {
        "task": "segmentation",
        "segmentation": {"width": 16},
        "optim": {"lr": 0.01, "warmup": 0},
        "fit": fit,
        "scratch_fit": {**fit, "epochs": 1},
        "evaluate": {"draws": 20},
        **more,
    }
    return validate(FinetuneConfig, tree, "test")


def write_lungs(path: Path, radiographs: int, seed: int = 0) -> Store:
    """Radiographs with two dark lungs at drawn places on a noisy body; every sixth shows none, every ninth has no
    masks."""
    organs = load_organs()
    info = StoreInfo(modality="cxr", recipe=RECIPE.model_dump(mode="json"), recipe_hash=RECIPE.hash,
                     labels=organs.label_names())  # fmt: skip
    store = create_store(path, info)
    rng = np.random.default_rng(seed)
    for number in range(radiographs):
        radiograph, mask = rng.normal(150, 8, (64, 64)), np.zeros((64, 64), np.uint8)
        for name, column in (("lung_right", 12), ("lung_left", 36)) if number % 6 else ():
            row, left, high = rng.integers(12, 20), column + rng.integers(-2, 3), rng.integers(20, 32)
            radiograph[row : row + high, left : left + 15] -= 90
            mask[row : row + high, left : left + 15] = organs[name].label or 0
        drawn = None if number % 9 == 8 else mask
        standardized = standardize_radiograph(Radiograph(radiograph.astype(np.float32)), RECIPE, drawn)
        name = f"f{number:03d}"
        write_study(path, StudyRecord(name, f"p{number:03d}", standardized, name, RECIPE.hash,
                                      row={"modality": "cxr", "view": "pa"},
                                      source=SourceGrid(radiograph.shape, np.eye(4))))  # fmt: skip
    compact(store)
    assign_splits(store, SplitSettings(fractions=(0.5, 0.2, 0.3)))
    return Store.open(path)


@pytest.fixture(scope="module")
def lungs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_lungs(tmp_path_factory.mktemp("lungs") / "store", 45)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    bert = write_word_bert(folder / "bert")
    vit = ViTSettings(spatial_dims=2, patch=8, image_size=48, dim=32, depth=1, heads=2)
    made = {"cnn": cxr_release(bert), "vit": cxr_release(bert, encoder=vit), "scans": cxr_release(bert)}
    made["scans"].cxr = None
    return {name: saved(folder / name, release) for name, release in made.items()}


@pytest.mark.parametrize("head", ["unet", "setr"])
@pytest.mark.parametrize("shape", [(48, 48), (64, 32)])
def test_heads_give_a_logit_for_every_pixel_and_leave_a_frozen_encoder_alone(head: str, shape) -> None:
    encoder = build_encoder(CNNSettings(spatial_dims=2, widths=(8, 16, 32), blocks=(0, 1, 1), groups=4), 1)
    network = SegmentationNetwork(encoder, SegmentationTaskSettings(head=head, width=16), frozen=True).train()  # type: ignore[arg-type]
    assert not encoder.training
    said = network({"images": torch.randn(2, 1, *shape)}, 2)
    assert said.shape == (2, 1, *shape)
    said.sum().backward()
    assert all(p.grad is None for p in encoder.parameters())
    assert all(p.grad is not None for p in network.head.parameters())


def test_the_loss_is_its_formula() -> None:
    logits, masks = torch.tensor([[[[0.5, -1.0], [2.0, 0.0]]]]), torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]])
    p = torch.sigmoid(logits)
    right = torch.where(masks > 0, p, 1 - p)
    focal = (-((1 - right) ** 2) * right.log()).mean()
    dice = (2 * (p * masks).sum() + 1) / (p.sum() + masks.sum() + 1)
    torch.testing.assert_close(mask_loss(logits, masks), 10 * focal - dice.log())
    empty = mask_loss(torch.full((1, 1, 4, 4), -20.0), torch.zeros(1, 1, 4, 4))
    assert float(empty) == pytest.approx(0.0, abs=1e-4)
    plain = F.binary_cross_entropy_with_logits(logits, masks)
    torch.testing.assert_close(mask_loss(logits, masks, focal=1.0, gamma=0.0), plain - dice.log())


def test_dice_by_hand() -> None:
    truth, said = np.zeros((4, 2, 2), bool), np.zeros((4, 2, 2), bool)
    truth[0] = [[1, 1], [0, 0]]
    said[0] = [[1, 0], [1, 0]]  # one of two found, one invented
    said[1, 0, 0] = True  # nothing is there, and a pixel is drawn
    truth[3] = said[3] = True
    found = compare_masks(said, truth)
    assert found.dice.tolist() == [0.5, 0.0, 1.0, 1.0]
    assert found.empty.tolist() == [False, True, True, False]
    assert pooled_dice(found.counts.sum(0)[None])[0] == pytest.approx(
        (2 * 5 / (2 * 5 + 2 + 1) + 2 * 8 / (2 * 8 + 2 + 1)) / 2
    )


def test_lungs_are_found_and_drawn_again_from_the_folder(lungs: Store, models, tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = finetune(models["cnn"], lungs.path, out, None, config(baselines=("scratch",), fractions=(0.3, 1.0)))
    points = {(point.initialization, point.fraction): point for point in results.points}
    mine = points["cnn", 1.0]
    assert mine.more["dice_pos"].value is not None
    assert mine.more["dice_pos"].value > 0.9
    assert (mine.mode, points["scratch", 1.0].mode) == ("probe", "full")
    assert "head unet, on windows of 48 x 48 pixels" in results.notes[0]
    assert {(p.code, p.subject) for p in results.problems} == {("no_mask", f"f{n:03d}") for n in range(8, 45, 9)}
    assert {(d.fraction, d.other_fraction) for d in results.differences} == {(0.3, 0.3), (0.3, 1.0), (1.0, 1.0)}
    scores = pl.read_parquet(out / "scores.parquet")
    dice, empty = scores["dice"].to_numpy(), scores["empty"].to_numpy()
    assert mine.score.value == pytest.approx(dice.mean())
    assert mine.more["dice_pos"].value == pytest.approx(dice[~empty].mean())
    assert f"{empty.sum()} of {len(empty)} test radiographs do not show it" in results.notes[0]
    before, after = load_release(models["cnn"]).model.state_dict(), load_release(out).model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    segmenter = OrganSegmenter(out)
    name = scores.filter(~pl.col("empty"))["study_id"][0]
    truth = lungs.study(name).organs()
    assert truth is not None
    drawn = segmenter.draw(lungs, name)
    inside = slice(7, 57)  # the model's window, a fifth smaller than the radiograph
    both = (drawn & (truth > 0))[inside, inside].sum()
    assert 2 * both / (drawn[inside, inside].sum() + (truth > 0)[inside, inside].sum()) > 0.85
    assert json.loads((out / "results.json").read_text())["task"] == "segmentation"


def test_tokens_are_enough_for_setr_and_the_encoder_learns_too(lungs: Store, models, tmp_path: Path) -> None:
    settings = config(
        segmentation={
            "head": "setr",
            "width": 32,
        },
        mode="full",
        optim={"lr": 0.003, "warmup": 0},
    )
    results = finetune(models["vit"], lungs.path, tmp_path, None, settings)
    assert results.points[0].more["dice_pos"].value is not None
    assert results.points[0].more["dice_pos"].value > 0.6
    before, after = load_release(models["vit"]).model.state_dict(), load_release(tmp_path).model.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"encoder"}
    assert load_release(tmp_path).calibration == {}


def test_a_run_that_was_stopped_goes_on(lungs: Store, models, tmp_path: Path) -> None:
    settings = config(seeds=(0, 1), fit={"epochs": 2, "patience": 0, "batch": 8, "device": "cpu"})

    with pytest.raises(Killed):
        finetune(models["cnn"], lungs.path, tmp_path / "a", None, settings, callbacks=killed_after(3))
    assert len(list((tmp_path / "a" / "runs").glob("*/run.json"))) == 1
    with pytest.raises(ConfigError, match="already holds"):
        finetune(models["cnn"], lungs.path, tmp_path / "a", None, settings)
    again = finetune(models["cnn"], lungs.path, tmp_path / "a", None, settings, resume=True)
    assert again == finetune(models["cnn"], lungs.path, tmp_path / "b", None, settings)
    assert math.isfinite(again.points[0].more["mdice"].value)


def test_what_cannot_be_is_said(lungs: Store, models, tmp_path: Path) -> None:
    with pytest.raises(CTGLIPError, match="No radiograph of the split 'train' has a mask of heart"):
        finetune(models["cnn"], lungs.path, tmp_path / "a", None, config(segmentation={"target": "heart"}))
    with pytest.raises(CTGLIPError, match="trained on CT scans"):
        finetune(models["scans"], lungs.path, tmp_path / "b", None, config())
    with pytest.raises(ConfigError, match="learns from the store"):
        finetune(models["cnn"], lungs.path, tmp_path / "c", tmp_path / "labels.csv", config())


def test_shipped_configs_are_what_they_say() -> None:
    unet, setr = (load_settings(FinetuneConfig, Path(f"finetune/cxr_segmentation_{n}")) for n in ("unet", "setr"))
    assert (unet.task, unet.segmentation.head, unet.mode) == ("segmentation", "unet", "probe")
    assert (setr.segmentation.head, setr.segmentation.width, setr.fit.batch) == ("setr", 512, 16)


def write_opacities(path: Path, radiographs: int = 24) -> Store:
    """Radiographs of which two of three show a bright patch: a region's box, a finding's box, a finding's mask."""
    info = StoreInfo(modality="cxr", recipe=RECIPE.model_dump(mode="json"), recipe_hash=RECIPE.hash)
    store, rng = create_store(path, info), np.random.default_rng(0)
    for number in range(radiographs):
        image, mask = rng.normal(30000, 500, (64, 64)), np.zeros((64, 64), np.uint8)
        boxes, lesions, layers = (), (), ()
        if number % 3:
            row, column = rng.integers(12, 36, 2)
            image[row : row + 14, column : column + 14] += 20000
            mask[row : row + 14, column + 2 : column + 12] = 1
            edges = tuple(int(n) for n in (row, row + 14, column, column + 14))
            boxes = (Region("lung_opacity", *edges),)
            inner = tuple(int(n) for n in (row, row + 14, column + 2, column + 12))
            lesions = (LesionAnnotation(None, "pneumothorax", "air", inner, 0, 1),
                       LesionAnnotation(None, "lung_nodule", "Nodule/Mass", edges))  # fmt: skip
            layers = (mask,)
        made = Standardized(image.astype(np.uint16), None, np.eye(4), regions=boxes)
        name = f"o{number:03d}"
        write_study(path, StudyRecord(name, f"p{number:03d}", made, name, RECIPE.hash, lesions=lesions,
                                      lesion_layers=layers, row={"modality": "cxr", "view": "pa"}))  # fmt: skip
    compact(store)
    assign_splits(store, SplitSettings(fractions=(0.5, 0.25, 0.25)))
    return Store.open(path)


@pytest.fixture(scope="module")
def opacities(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_opacities(tmp_path_factory.mktemp("opacities") / "store")


def test_boxes_and_masks_of_findings_are_truth(opacities: Store) -> None:
    study, organs = opacities.study("o001"), load_organs()
    area = {}
    for name in ("lung_opacity", "pneumothorax", "air", "lung_nodule", "Nodule/Mass"):
        found = class_map(study, mask_classes([name], opacities, organs))
        assert found is not None
        area[name] = int(found.sum())
    assert area == {"lung_opacity": 196, "pneumothorax": 140, "air": 140, "lung_nodule": 196, "Nodule/Mass": 196}
    (box,) = study.regions()
    found = class_map(study, mask_classes(["lung_opacity"], opacities, organs))
    assert found is not None
    assert found[box.row0 : box.row1, box.column0 : box.column1].all()
    (target,) = mask_classes(["pneumothorax"], opacities, organs)
    empty = class_map(opacities.study("o000"), (target,))
    assert empty is not None
    assert not empty.any()
    assert class_map(opacities.study("o000"), (target,), "leave_out") is None
    with pytest.raises(CTGLIPError, match="Nearest names: pneumothorax"):
        mask_classes(["pneumotorax"], opacities, organs)


@pytest.mark.parametrize("protocol", ["siim_mgca", "rsna_mgca", "siim_benchx", "rsna_benchx"])
def test_published_protocols_run_on_what_they_are_of(opacities: Store, models, tmp_path: Path, protocol: str) -> None:
    fit = {"epochs": 1, "patience": 0, "batch": 4, "device": "cpu"}
    tree = load_tree(Path(f"finetune/cxr_segmentation_{protocol}"))
    small = {"fit": fit, "seeds": [0], "evaluate": {"draws": 10}, "segmentation": {"width": 16}, "scratch_fit": fit}
    settings = validate(FinetuneConfig, merge(tree, small), protocol)
    results = finetune(models["cnn"], opacities.path, tmp_path, None, settings)
    benchx = protocol.endswith("benchx")
    assert results.metric == ("mdice" if benchx else "dice_all")
    (point,) = results.points
    others = {"dice_all", "dice_pos", "mdice"} - {results.metric}
    assert point.more.keys() == others | {"dice_batches"}
    assert "3 of 6 test radiographs do not show it" in results.notes[0]
    scores = pl.read_parquet(tmp_path / "scores.parquet")
    tp, fp, fn, tn = (scores[name].sum() for name in ("tp", "fp", "fn", "tn"))
    mdice = (2 * tp / max(2 * tp + fp + fn, 1) + 2 * tn / (2 * tn + fp + fn)) / 2
    found = results.score if benchx else point.more["mdice"]
    assert found.value == pytest.approx(mdice)
    dice = scores["dice"].to_numpy()
    size = settings.fit.batch
    assert point.more["dice_batches"] == pytest.approx(np.mean([dice[:size].mean(), dice[size:].mean()]))
    head = json.loads((tmp_path / "head" / "segmentation.json").read_text())
    assert head["head"] == ("upernet" if benchx else "unet")
    assert OrganSegmenter(tmp_path).draw(opacities, "o001").shape == (64, 64)


def test_upernet_answers_twice_in_training_and_once_after() -> None:
    encoder = build_encoder(CNNSettings(spatial_dims=2, widths=(8, 16, 32), blocks=(0, 1, 1), groups=4), 1)
    settings = SegmentationTaskSettings(head="upernet", width=16, auxiliary=0.4, loss="ce")
    network = SegmentationNetwork(encoder, settings, frozen=True).train()  # type: ignore[arg-type]
    images, masks = torch.randn(2, 1, 48, 48), (torch.rand(2, 1, 48, 48) > 0.5).float()
    said = network({"images": images}, 2)
    assert said.shape == (2, 2, 48, 48)
    each = [F.binary_cross_entropy_with_logits(one, masks) for one in said.split(1, dim=1)]
    torch.testing.assert_close(segmentation_loss(settings)(said, masks), each[0] + 0.4 * each[1])
    segmentation_loss(settings)(said, masks).backward()
    assert all(p.grad is not None for p in network.head.parameters())
    assert network.eval()({"images": images}, 2).shape == (2, 1, 48, 48)


def test_settings_that_nothing_reads_are_refused() -> None:
    with pytest.raises(ConfigError, match="auxiliary is set"):
        config(segmentation={"auxiliary": 0.4})
    with pytest.raises(ConfigError, match="focal is set"):
        config(segmentation={"loss": "ce", "focal": 5.0})


def test_a_head_of_before_names_an_organ(lungs: Store, models, tmp_path: Path) -> None:
    fit = {"epochs": 1, "patience": 0, "batch": 8, "device": "cpu"}
    finetune(models["cnn"], lungs.path, tmp_path, None, config(fit=fit))
    file = tmp_path / "head" / "segmentation.json"
    about = json.loads(file.read_text())
    before = {"organ": about["target"], **{k: about[k] for k in ("head", "width", "focal", "gamma", "threshold")}}
    file.write_text(json.dumps(before))
    assert OrganSegmenter(tmp_path).settings.target == "lungs"
