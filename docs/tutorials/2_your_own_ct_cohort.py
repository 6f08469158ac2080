# %% [markdown]
# # Your own CT cohort
#
# Three scans stand in for yours. They are written as NIfTI files, as a hospital might hand them to you. The rest is what you do
# with your own files. Under a minute.

# %%
from pathlib import Path
from tempfile import mkdtemp

import nibabel as nib
import polars as pl

import ctglip
from ctglip.simulation import level_settings

folder = Path(mkdtemp())
easy = level_settings("easy", None, ())
rows = []
for number in range(3):
    study = ctglip.simulate_study(seed=1, index=number, settings=easy)
    nib.save(nib.Nifti1Image(study.scan.hu, study.scan.affine), folder / f"{number:05d}.nii.gz")
    nib.save(nib.Nifti1Image(study.labels.labels, study.labels.affine), folder / f"{number:05d}_masks.nii.gz")
    rows.append({"study_id": f"{number:05d}", "patient_id": f"p{number}", "image": f"{number:05d}.nii.gz",
                 "masks": f"{number:05d}_masks.nii.gz", "report": study.report})  # fmt: skip

# %% [markdown]
# ## The table
#
# One row a study. Paths are relative to the table. Ids are text: leading zeros stay.

# %%
pl.DataFrame(rows).write_csv(folder / "cohort.csv")
print(pl.read_csv(folder / "cohort.csv", schema_overrides={"study_id": pl.String}).select("study_id", "image", "masks"))

# %% [markdown]
# ## What will be learned?
#
# Look at what the parser reads before anything runs for long.

# %%
for finding in ctglip.ReportParser().parse(rows[0]["report"])[:8]:
    print(finding.status, finding.organ, finding.abnormality, "|", finding.sentence)

# %% [markdown]
# ## Preprocess
#
# A scan that is broken becomes a row with a reason. Here the third scan is cut off on purpose.

# %%
from ctglip_preprocessing.driver import preprocess_cohort
from ctglip_preprocessing.settings import PreprocessConfig

from ctglip.cohort import read_cohort
from ctglip.config import load_settings

broken = folder / "00002.nii.gz"
broken.write_bytes(broken.read_bytes()[:10_000])
recipe = load_settings(PreprocessConfig, "preprocess/demo_3mm")
summary = preprocess_cohort(read_cohort(folder / "cohort.csv"), folder / "store", recipe)
print(summary.written, "written")
for failure in summary.failed:
    print(failure.study_id, failure.code)

# %% [markdown]
# What does the code mean?

# %%
from ctglip.error_codes import error_code

print(error_code(summary.failed[0].code).text())

# %% [markdown]
# ## What is in the store

# %%
print(pl.read_parquet(folder / "store/organs.parquet").select("study_id", "organ", "volume_ml", "mean_hu").head(6))

# %% [markdown]
# Next: `ctglip pretrain store run --config pretrain/ctglip_cnn`, on a GPU and with far more studies.
