# %% [markdown]
# # Only the losses, only the parser, only the store
#
# Each part works without the others, in your own code. Seconds.
#
# ## Only the parser

# %%
import ctglip

report = "FINDINGS: The liver shows diffuse steatosis. No gallstones. Two cysts in the left kidney."
for finding in ctglip.ReportParser().parse(report):
    print(finding.status, finding.organ, finding.abnormality)

# %% [markdown]
# ## Only the dictionaries

# %%
organs = ctglip.load_organs()
abnormalities = ctglip.load_abnormalities()
print(organs.find("left kidney").name, organs.mirror("kidney_left"))
print([one.name for one in abnormalities.of_organ("gallbladder")][:4])

# %% [markdown]
# ## Only the losses
#
# Tensors in, a scalar out. Here two texts are equal, so neither is a negative of the other.

# %%
import torch
from torch.nn import functional as F

from ctglip.losses import equal_key, soft_contrastive

torch.manual_seed(0)
images = F.normalize(torch.randn(4, 16), dim=1)
texts = F.normalize(torch.randn(4, 16), dim=1)
key = torch.tensor([0, 1, 1, 2])
print(soft_contrastive(images, texts, scale=10.0).item())
print(soft_contrastive(images, texts, scale=10.0, target=equal_key, context=key).item())

# %% [markdown]
# ## Only the simulation

# %%
from ctglip.simulation import level_settings

study = ctglip.simulate_study(seed=0, index=0, settings=level_settings("easy", None, ()))
print(study.scan.hu.shape, [pair for pair, there in study.truth.items() if there])
print(study.report)

# %% [markdown]
# ## Only the store
#
# A store is read with zarr and polars, or as a torch dataset: see [the library](../api.md#a-store-as-a-torch-dataset).
