"""A folder made by nnU-Net itself: fingerprint, plans, trainer, checkpoint."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

MAKE = """
import json, sys
from pathlib import Path
import nibabel as nib, numpy as np, torch

root = Path(sys.argv[1])
raw = root / "raw" / "Dataset001_Tiny"
(raw / "imagesTr").mkdir(parents=True)
(raw / "labelsTr").mkdir()
rng = np.random.default_rng(0)
for case in range(4):
    affine = np.diag([1.0, 1.5, 3.0, 1.0])
    labels = np.zeros((40, 48, 20), np.uint8)
    labels[10:30, 12:36, 5:15] = 1
    image = (rng.normal(size=labels.shape) * 20 + labels * 100).astype(np.int16)
    nib.save(nib.Nifti1Image(image, affine), raw / "imagesTr" / f"case{case}_0000.nii.gz")
    nib.save(nib.Nifti1Image(labels, affine), raw / "labelsTr" / f"case{case}.nii.gz")
names = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}}
about = {**names, "numTraining": 4, "file_ending": ".nii.gz"}
(raw / "dataset.json").write_text(json.dumps(about))

from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

extract_fingerprints([1], num_processes=1)
plan_experiments([1], experiment_planner_class_name=sys.argv[2], gpu_memory_target_in_gb=1)
prepared = root / "preprocessed" / "Dataset001_Tiny"
plans_file = next(prepared.glob("nnUNet*Plans.json"))
plans = json.loads(plans_file.read_text())
preprocess([1], plans_file.stem, configurations=["3d_fullres"], num_processes=[1])

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

torch.manual_seed(0)
trainer = nnUNetTrainer({**plans, "continue_training": False}, "3d_fullres", 0, about, device=torch.device("cpu"))
trainer.initialize()
folder = Path(trainer.output_folder_base)
Path(trainer.output_folder).mkdir(parents=True, exist_ok=True)
(folder / "plans.json").write_text(json.dumps(plans))
(folder / "dataset.json").write_text(json.dumps(about))
trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))

from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from ctglip.models.encoders import build_encoder
from ctglip.models.encoders.nnunet import NNUNetSettings

predictor = nnUNetPredictor(device=torch.device("cpu"))
predictor.initialize_from_trained_model_folder(str(folder), use_folds=(0,))
network = predictor.network.eval()
network.load_state_dict(predictor.list_of_parameters[0])
mine = build_encoder(NNUNetSettings(weights=str(folder)), in_channels=1).eval()
mine.load_pretrained()
shape = [2 * step for step in mine.strides[-1]]
image = torch.randn(1, 1, *shape)
forward = plans["transpose_forward"]
turned = image.permute(0, 1, 4, 3, 2).permute(0, 1, *(2 + axis for axis in forward))
with torch.no_grad():
    theirs = network.encoder(turned)
    levels = mine(image).levels
back = np.argsort(forward).tolist()
for level, their in zip(levels, theirs, strict=True):
    their = their.permute(0, 1, *(2 + axis for axis in back)).permute(0, 1, 4, 3, 2)
    torch.testing.assert_close(level, their, atol=1e-4, rtol=1e-4)
print(forward, plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("planner", ["nnUNetPlannerResEncM"])
def test_the_encoder_is_nnunets_own(tmp_path, planner):
    names = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
    folders = {name: str(tmp_path / folder) for name, folder in names.items()}
    environment = {**os.environ, **folders, "nnUNet_compile": "f"}
    command = [sys.executable, "-c", MAKE, str(tmp_path), planner]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert ("ResidualEncoderUNet" in done.stdout.splitlines()[-1]) == (planner != "ExperimentPlanner")
