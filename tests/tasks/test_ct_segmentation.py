"""Organs and drawn findings are found on scans: patches, decoder, loss and scores by formulas, and simple scans."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn import functional as F

from ctglip.config import load_settings, validate
from ctglip.data.scans import ScanSettings
from ctglip.errors import ConfigError, CTGLIPError, ModelError
from ctglip.models.encoders import build_encoder
from ctglip.models.encoders.cnn import CNNSettings
from ctglip.models.encoders.vit import ViTSettings
from ctglip.models.release import load_release
from ctglip.store.mask_classes import MaskClass, class_map, mask_classes
from ctglip.store.tables import Store
from ctglip.tasks.ct_patches import cut_patch, patch_batch, patch_corner, patch_volume
from ctglip.tasks.ct_segmentation import classes_on
from ctglip.tasks.ct_segmentation_network import (
    CtSegmentationNetwork,
    PyramidDecoder,
    scales_of,
    segment_volume,
    supervised_loss,
)
from ctglip.tasks.ct_segmentation_scores import compare_classes, lesion_f1
from ctglip.tasks.settings import CtSegmentationConfig, CtSegmentationTaskSettings, FinetuneConfig
from ctglip.tasks.tuning import finetune
from ctglip.types import LesionAnnotation
from tests.inference.tiny_cxr import cxr_release, saved
from tests.tasks.blobs import write_blobs
from tests.tasks.kills import Killed, killed_after
from tests.training.tiny import ORGANS, write_word_bert

SPOTS = "liver:liver_metastasis"
PLAIN = CtSegmentationTaskSettings()


def config(**more) -> FinetuneConfig:
    fit = {"epochs": 14, "patience": 0, "batch": 4, "device": "cpu"}
    tree = {
        "task": "ct_segmentation",
        "segmentation": {"targets": ["liver"], "width": 8, "supervision": 1, "overlap": 0.25, "val_scans": 3},
        "optim": {"lr": 0.01, "warmup": 0},
        "fit": fit,
        "scratch_fit": {**fit, "epochs": 1},
        "evaluate": {"draws": 20},
        **more,
    }
    return validate(FinetuneConfig, tree, "test")


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_blobs(tmp_path_factory.mktemp("blobs") / "store", 30)


def test_classes_are_organs_and_drawn_findings(blobs: Store) -> None:
    liver, spots = mask_classes(["liver", SPOTS], blobs, ORGANS)
    assert liver == MaskClass("liver", (ORGANS["liver"].label or 0,))
    assert (spots.organ, spots.finding, spots.is_organ) == ("liver", "liver_metastasis", False)
    study = blobs.study("b002")
    found = class_map(study, (liver, spots))
    assert found is not None
    labels = study.organs()
    drawn = sum(int(study.lesion_mask(lesion).sum()) for lesion in study.lesions())
    assert drawn == 16
    assert (found == 2).sum() == 16
    assert (found == 1).sum() == (labels > 0).sum() - 16
    (theirs,) = mask_classes(["spot"], blobs, ORGANS)
    assert np.array_equal(class_map(study, (theirs,)) == 1, found == 2)
    assert not class_map(blobs.study("b000"), (spots,)).any()
    assert class_map(blobs.study("b000"), (liver, spots), "leave_out") is None


def test_a_finding_without_a_name_in_the_dictionary_is_no_part_of_an_organ() -> None:
    nameless = LesionAnnotation("lungs", None, "spot", (0, 2, 0, 2, 0, 2), 0, 1)
    assert not MaskClass("liver", (5,)).draws(nameless)
    assert MaskClass("spot", (), None, "spot").draws(nameless)
    assert not MaskClass("liver:spot", (), "liver", "spot").draws(nameless)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["livr"], "Nearest names: liver"),
        (["liver:liver_metastases"], "neither an organ of the dictionary nor a drawn finding .*liver_metastasis"),
        (["liver", "liver"], "each once"),
        ([], "at least one"),
        (["stomach:liver_metastasi"], "drawn finding"),
    ],
)
def test_a_target_that_is_none_is_named(blobs: Store, names, says: str) -> None:
    with pytest.raises(CTGLIPError, match=says):
        mask_classes(names, blobs, ORGANS)


def test_patches_lie_on_what_is_looked_for_as_often_as_asked() -> None:
    classes = np.zeros((20, 24, 30), np.uint8)
    classes[3:5, 20:22, 8:9], classes[15:18, 2:4, 25:28] = 1, 2
    hu = np.arange(classes.size, dtype=np.int16).reshape(classes.shape)
    volume = patch_volume(hu, classes, np.eye(4), None)
    rng = np.random.default_rng(0)
    patch = (6, 6, 6)
    middles = {1: 0, 2: 0, 0: 0}
    for _ in range(200):
        corner = patch_corner(volume, patch, 1.0, rng)
        assert (corner >= 0).all()
        assert (corner + patch <= classes.shape).all()
        middles[int(cut_patch(classes, corner, patch, 0).max())] += 1
    assert middles[0] == 0
    assert 70 < middles[1] < 130
    anywhere = [cut_patch(classes, patch_corner(volume, patch, 0.0, rng), patch, 0).any() for _ in range(200)]
    assert np.mean(anywhere) < 0.4
    large = patch_corner(volume, (32, 24, 40), 1.0, rng)
    cut = cut_patch(hu, large, (32, 24, 40), -1024)
    assert np.array_equal(cut[6:26, :, 5:35], hu)
    assert (cut == -1024).sum() == cut.size - hu.size


def test_a_batch_is_what_its_generator_says_and_labels_move_with_the_image() -> None:
    classes = np.zeros((24, 24, 24), np.uint8)
    classes[8:14, 3:9, 10:20] = 1
    volume = patch_volume(classes.astype(np.int16) * 500, classes, np.diag([2.0, 2, 2, 1]), (4.0, 4.0, 4.0))
    assert volume.hu.shape == (12, 12, 12)
    settings, view = CtSegmentationTaskSettings(shift_hu=0, noise_hu=0, patches=3), ScanSettings(windows_hu=((0, 500),))
    made = [patch_batch([volume] * 2, (8, 8, 8), view, settings, np.random.default_rng(5)) for _ in range(2)]
    assert torch.equal(made[0][0], made[1][0])
    images, targets = made[0]
    assert images.shape == targets.shape == (6, 1, 8, 8, 8)
    assert ((images > 0) == (targets > 0)).float().mean() > 0.97
    changed = patch_batch(
        [volume] * 2, (8, 8, 8), view, PLAIN.model_copy(update={"patches": 3}), np.random.default_rng(5)
    )
    assert not torch.equal(changed[0], images)
    assert torch.equal(changed[1], targets)


def test_scales_from_levels_and_from_tokens() -> None:
    assert scales_of([(2, 2, 2), (4, 4, 4)]) == ((1, 1, 1), (2, 2, 2), (4, 4, 4))
    assert scales_of([(1, 1, 1), (2, 2, 1), (2, 2, 1)]) == ((1, 1, 1), (2, 2, 1))
    assert scales_of([(8, 8, 4)] * 2) == ((1, 1, 1), (2, 2, 1), (4, 4, 2), (8, 8, 4))
    assert scales_of([(14, 14, 6)]) == ((1, 1, 1), (2, 2, 2), (14, 14, 6))
    with pytest.raises(ModelError, match="cannot be joined"):
        scales_of([(2, 2, 2), (3, 3, 3)])


@pytest.mark.parametrize(
    "encoder",
    [
        CNNSettings(widths=(8, 16), blocks=(0, 1), groups=4),
        CNNSettings(widths=(8, 16), blocks=(1, 1), groups=4, stem_stride=1),
        ViTSettings(patch=(8, 8, 4), image_size=(16, 16, 8), dim=24, depth=2, heads=2, positions="sine"),
    ],
)
def test_decoders_give_logits_at_each_scale_and_leave_a_frozen_encoder_alone(encoder) -> None:
    settings = CtSegmentationTaskSettings(width=8, supervision=1)
    network = CtSegmentationNetwork(build_encoder(encoder, 3), 3, 2, 4, settings, frozen=True).train()
    images = torch.randn(2, 2, 16, 24, 16)
    logits = network({"images": images}, 2)
    assert logits.shape[0] == 2
    assert logits.shape[2:] == (4, 16, 24, 16)
    assert logits.shape[1] == min(2, len(network.head.ups))
    logits.sum().backward()
    assert all(p.grad is None for p in network.encoder.parameters())
    assert all(p.grad is not None for p in network.head.parameters())
    assert network.eval()({"images": images}, 2).shape[1] == 1


def test_the_loss_is_its_formula() -> None:
    torch.manual_seed(0)
    logits, classes = torch.randn(2, 2, 3, 4, 4, 4), torch.randint(0, 3, (2, 1, 4, 4, 4))

    def plain(x: torch.Tensor) -> torch.Tensor:
        p, y = x.softmax(1)[:, 1:], F.one_hot(classes[:, 0], 3).movedim(-1, 1)[:, 1:].float()
        axes = (0, 2, 3, 4)
        dice = 1 - (2 * (p * y).sum(axes) + 1e-5) / (p.sum(axes) + y.sum(axes) + 1e-5)
        return 2 * dice.mean() + 0.5 * F.cross_entropy(x, classes[:, 0])

    loss = supervised_loss(CtSegmentationTaskSettings(dice=2, ce=0.5))
    expected = (plain(logits[:, 0]) + 0.5 * plain(logits[:, 1])) / 1.5
    torch.testing.assert_close(loss(logits, classes.float()), expected)


def test_windows_of_a_whole_scan_add_up_to_its_answer() -> None:
    class Bright(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, inputs, studies):
            x = inputs["images"][:, :1]
            return torch.cat([-4 * x, 4 * x], 1)[:, None] * self.weight

    image = torch.rand(1, 1, 20, 13, 9) * 2 - 1
    found = segment_volume(Bright(), image, (8, 8, 16), PLAIN)
    assert found.shape == (2, 20, 13, 9)
    torch.testing.assert_close(found, torch.cat([-4 * image[0], 4 * image[0]]).softmax(0), atol=1e-5, rtol=1e-5)


def test_scores_by_hand() -> None:
    organ, lesion = MaskClass("liver", (5,)), MaskClass("spot", (), None, "spot")
    truth, mine = np.zeros((16, 16, 16), np.uint8), np.zeros((16, 16, 16), np.uint8)
    truth[4:8, 4:8, 4:8] = mine[6:10, 4:8, 4:8] = 1  # half of it, two voxels on
    truth[12:14, 12:14, 12:14] = mine[12:14, 12:14, 12:14] = 2  # found
    truth[1:2, 13:15, 1:3] = 2  # missed
    mine[1, 1, 13] = 2  # invented
    one, two = compare_classes(mine, truth, (3.0, 1.0, 1.0), (organ, lesion), PLAIN)
    assert one["dice"] == 0.5
    assert one["hd95_mm"] == 6.0
    assert one["lesion_f1"] is None
    assert one["truth_ml"] == pytest.approx(64 * 3 / 1000)
    assert 0 < one["nsd"] < 1
    assert two["lesion_f1"] == 0.5
    near = compare_classes(
        mine, truth, (3.0, 1.0, 1.0), (organ, lesion), PLAIN.model_copy(update={"tolerance_mm": 6.0})
    )
    assert near[0]["nsd"] == 1.0
    nothing = compare_classes(np.zeros_like(mine), truth, (3.0, 1.0, 1.0), (organ, lesion), PLAIN)
    assert [row["dice"] for row in nothing] == [0.0, 0.0]
    assert nothing[0]["hd95_mm"] == pytest.approx(np.sqrt(48**2 + 2 * 16**2))
    assert nothing[1]["lesion_f1"] == 0.0
    (absent,) = compare_classes(mine, np.zeros_like(mine), (1, 1, 1), (organ,), PLAIN)
    assert (absent["present"], absent["dice"], absent["predicted_ml"]) == (False, None, 0.064)


def test_touching_lesions_are_one_and_each_is_matched_once() -> None:
    truth, mine = np.zeros((12, 12, 12), bool), np.zeros((12, 12, 12), bool)
    truth[1:3, 1:3, 1:3] = truth[3:5, 3:5, 3:5] = True  # by a corner: one lesion of 16 voxels
    mine[1:3, 1:3, 1:3] = True
    assert lesion_f1(mine, truth, 0.4) == 1.0
    assert lesion_f1(mine, truth, 0.6) == 0.0


def test_classes_are_laid_on_a_grid_of_any_order() -> None:
    classes = np.zeros((10, 12, 14), np.uint8)
    classes[2:5, 3:9, 4:12] = 1
    classes[6:9, 1:4, 2:6] = 2
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = (5, -7, 11)
    shares = np.stack([(classes == number) * 0.8 + 0.1 for number in range(3)]).astype(np.float32)
    assert np.array_equal(classes_on(shares, affine, (10, 12, 14), affine), classes)
    turned = affine @ np.array([[0, -1, 0, 9], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])  # i is y, j is x backwards
    assert np.array_equal(classes_on(shares, affine, (12, 10, 14), turned), classes.transpose(1, 0, 2)[:, ::-1])
    beyond = affine.copy()
    beyond[:3, 3] -= (2.0, 0, 0)
    moved = classes_on(shares, affine, (12, 12, 14), beyond)
    assert np.array_equal(moved[1:11], classes)
    assert not moved[0].any()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_thing_is_found_where_it_lies(blobs: Store, run: Path, tmp_path: Path, seed: int) -> None:
    results = finetune(run, blobs.path, tmp_path, None, config(seeds=(seed,)))
    scores = pl.read_parquet(tmp_path / "scores.parquet")
    everywhere = scores["truth_ml"].mean() / (20**3 * 0.216)
    assert results.score.value > 0.8
    assert results.score.value > 2 * everywhere / (1 + everywhere) + 0.4, "better than drawing everything"
    assert results.score.value == pytest.approx(scores["dice"].mean())
    (point,) = results.points
    assert point.more["liver Dice"].value == pytest.approx(point.score.value)
    assert {"liver NSD", "liver HD95 (mm)"} <= point.more.keys()
    assert "liver lesion F1" not in point.more
    assert "liver on 6" in results.notes[0]


def test_masks_of_others_teach_nothing(run: Path, tmp_path: Path) -> None:
    store = write_blobs(tmp_path / "store", 30, permuted=True)
    results = finetune(run, store.path, tmp_path / "out", None, config())
    assert results.score.value < 0.45


def test_spots_are_scored_one_by_one_beside_random_weights(blobs: Store, run: Path, tmp_path: Path) -> None:
    own = {"targets": ["liver", SPOTS], "width": 8, "supervision": 1, "overlap": 0.25, "spacing_mm": [5, 6, 6]}
    fit = {"epochs": 2, "patience": 0, "batch": 4, "device": "cpu"}
    settings = config(segmentation=own, baselines=("scratch",), mode="probe", fit=fit, fractions=(0.3, 1.0))
    results = finetune(run, blobs.path, tmp_path, None, settings)
    starts = [("run", "probe"), ("scratch", "full")]
    assert [(p.initialization, p.mode) for p in results.points if p.fraction == 1] == starts
    assert [p.patients for p in results.points if p.fraction < 1] == [6, 6]
    assert f"{SPOTS} lesion F1" in results.points[0].more
    assert (results.differences[0].initialization, results.differences[0].other) == ("run", "scratch")
    assert "voxels of 5 x 6 x 6 mm" in results.notes[0]
    scores = pl.read_parquet(tmp_path / "scores.parquet")
    assert scores.filter(~pl.col("present"))["dice"].is_null().all()
    before, after = load_release(run).model.state_dict(), load_release(tmp_path).model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "the encoder is frozen"
    kept = json.loads((tmp_path / "head" / "ct_segmentation.json").read_text())
    assert (kept["targets"], kept["spacing_mm"], kept["patch"]) == (["liver", SPOTS], [5, 6, 6], [16, 16, 16])


def test_a_run_that_was_stopped_goes_on_to_the_bit(blobs: Store, run: Path, tmp_path: Path) -> None:
    settings = config(seeds=(0, 1), fit={"epochs": 2, "patience": 0, "batch": 8, "device": "cpu"})

    with pytest.raises(Killed):
        finetune(run, blobs.path, tmp_path / "a", None, settings, callbacks=killed_after(3))
    again = finetune(run, blobs.path, tmp_path / "a", None, settings, resume=True)
    assert again == finetune(run, blobs.path, tmp_path / "b", None, settings)
    for file in (tmp_path / "b" / "runs").glob("*/weights.safetensors"):
        assert file.read_bytes() == (tmp_path / "a" / "runs" / file.parent.name / file.name).read_bytes()


def test_what_cannot_be_is_said(blobs: Store, run: Path, tmp_path: Path) -> None:
    with pytest.raises(CTGLIPError, match="No scan of the split 'train' has a mask of spleen"):
        finetune(run, blobs.path, tmp_path / "a", None, config(segmentation={"targets": ["liver", "spleen"]}))
    radiographs = saved(tmp_path / "cxr", cxr_release(write_word_bert(tmp_path / "bert")))
    with pytest.raises(ModelError, match="trained on radiographs"):
        finetune(radiographs, blobs.path, tmp_path / "b", None, config())
    with pytest.raises(ModelError, match="trained on radiographs"):
        finetune(run, blobs.path, tmp_path / "d", None, config(baselines=(str(radiographs),)))
    with pytest.raises(ConfigError, match="is no multiple of"):
        finetune(run, blobs.path, tmp_path / "c", None, config(segmentation={"patch": [16, 16, 15]}))
    with pytest.raises(ConfigError, match="overlpa"):
        config(segmentation={"overlpa": 0.5})


def test_the_shipped_config_is_what_it_says() -> None:
    shipped = load_settings(FinetuneConfig, Path("finetune/ct_segmentation"))
    assert isinstance(shipped, CtSegmentationConfig)
    assert (shipped.segmentation.targets, shipped.mode) == (("liver", "spleen", "kidneys"), "full")
    assert len(PyramidDecoder(build_encoder(CNNSettings(), 2), 2, 4, 16, 2).outs) == 3
