# %% [markdown]
# # The demo, step by step
#
# Simulated patients, from table to answer. About five minutes on two cores. The model trains for a moment only: its answers
# are those of a beginner. `make demo` trains longer.

# %%
from pathlib import Path
from tempfile import mkdtemp

folder = Path(mkdtemp())

# %% [markdown]
# ## 1. A cohort
#
# Each study has a scan, masks, a report, and a truth that no real patient has.

# %%
import polars as pl

from ctglip.simulation import level_settings, simulate_cohort

table = simulate_cohort(folder / "cohort", studies=60, seed=0, settings=level_settings("easy", None, ()))
cohort = pl.read_csv(table)
print(cohort.columns)
print(cohort["report"][0])

# %% [markdown]
# ## 2. A store
#
# Each study is read, checked, resampled and parsed once.

# %%
from ctglip_preprocessing.driver import preprocess_cohort
from ctglip_preprocessing.settings import PreprocessConfig

from ctglip.cohort import read_cohort
from ctglip.config import load_settings

summary = preprocess_cohort(
    read_cohort(table), folder / "store", load_settings(PreprocessConfig, "preprocess/demo_3mm")
)
print(summary.written, "written,", len(summary.failed), "failed")

# %%
import ctglip

store = ctglip.Store.open(folder / "store")
findings = pl.read_parquet(folder / "store/findings.parquet")
print(findings.filter(pl.col("status") == "affirmed").select("organ", "abnormality", "sentence").head())

# %% [markdown]
# ## 3. A model

# %%
from ctglip.training import PretrainConfig, pretrain

config = load_settings(
    PretrainConfig, "small/ctglip_cnn", ["loop.steps=60", "loop.checkpoint_every=60", "optim.warmup=10"]
)
model_folder = pretrain(folder / "store", folder / "run", config)
print(model_folder.name)

# %% [markdown]
# ## 4. How good is it?
#
# Beside the score stand the controls that it must beat. After 60 steps it may not.

# %%
from ctglip.evaluation import EvaluateConfig, evaluate

settings = load_settings(EvaluateConfig, "evaluate/zero_shot", ["draws=100", "min_positives=1", "pictures=false"])
results = evaluate(
    folder / "run", folder / "store", folder / "evaluation", "test", folder / "cohort/truth.csv", settings
)
print(sorted(path.name for path in (folder / "evaluation").iterdir()))

# %% [markdown]
# ## 5. Ask about one scan

# %%
model = ctglip.load_model(folder / "run")
row = cohort.row(0, named=True)
answers = model.query(
    folder / "cohort" / row["image"],
    ["liver: fatty liver", "gallstones?"],
    masks=folder / "cohort" / row["masks"],
)
for answer in answers.answers:
    print(answer.question, answer.probability, answer.reason)
