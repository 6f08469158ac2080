"""A released model as Hugging Face's hub has it: ``from_pretrained``, ``save_pretrained``, ``push_to_hub``.

The folder is the ``model/`` folder itself with a README, so ``ctglip.load_model`` reads a downloaded one too.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from jaxtyping import Float
from torch import Tensor

from ctglip.models.card import write_card
from ctglip.models.encoders.base import VisionFeatures
from ctglip.models.release import Release, load_release, save_release


class HubModel(
    ModelHubMixin,
    library_name="ctglip",
    tags=["ct", "radiology", "vision-language"],
    repo_url="",
    docs_url="",
):
    """A model that hubs can keep.

    >>> HubModel(load_release(Path("run"))).push_to_hub("me/my-model")
    >>> model = HubModel.from_pretrained("me/my-model")
    >>> model(batch["image"], ["The liver shows steatosis."], batch)

    Calling it compares images with texts. Scans become images by ``ctglip.load_model(model.release)``'s
    ``model_input``, which also answers questions.

    Args:
        release: the model with everything around it.
    """

    def __new__(cls, release: Release) -> HubModel:
        """The mixin is not shown the release: it would copy it number by number into a config."""
        del release
        return super().__new__(cls)

    def __init__(self, release: Release) -> None:
        self.release = release

    def __call__(
        self, images: Float[Tensor, "b c *s"], texts: Sequence[str], regions: Mapping[str, Any] | None = None
    ) -> Float[Tensor, "m n"]:
        """Cosine similarities of images' organs (or of whole images) with texts; arguments and errors as those of
        ``encode_image`` and ``encode_text``."""
        return self.encode_image(images, regions) @ self.encode_text(texts).T

    def encode_image(
        self, images: Float[Tensor, "b c *s"], regions: Mapping[str, Any] | None = None
    ) -> Float[Tensor, "m e"]:
        """As ``models.release.Release.encode_image``."""
        return self.release.encode_image(images, regions)

    @torch.no_grad()
    def image_features(self, images: Float[Tensor, "b c *s"]) -> VisionFeatures:
        """What the image encoder makes of images: maps, tokens and one vector each; of models without texts too."""
        return self.release.model.encode_image(images)

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "n e"]:
        """As ``models.release.Release.encode_text``."""
        return self.release.encode_text(texts)

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the files of ``model/`` beside what is there."""
        with tempfile.TemporaryDirectory() as scratch:
            written = save_release(Path(scratch) / "model", self.release)
            write_card(self.release, written)
            shutil.copytree(written, save_directory, dirs_exist_ok=True)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **_: Any,
    ) -> HubModel:
        """From a folder, or from the hub's copy.

        Raises:
            ModelError: the folder is not a model.
        """
        folder = Path(model_id)
        if not folder.is_dir():
            folder = Path(
                snapshot_download(
                    model_id, revision=revision, cache_dir=cache_dir, force_download=force_download,
                    local_files_only=local_files_only, token=token,
                )
            )  # fmt: skip
        return cls(load_release(folder))
