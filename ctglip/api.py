"""The library in five lines.

>>> import ctglip
>>> model = ctglip.load_model("run")
>>> answers = model.query("scan.nii.gz", ["liver: fatty liver", "gallstones?"], masks="masks.nii.gz")
>>> for answer in answers.answers:
...     print(answer.question, answer.probability)

Features of its own: unit vectors of organs and of texts, in one space.

>>> images = model.encode_image("scan.nii.gz", ["liver", "spleen"], masks="masks.nii.gz")
>>> texts = model.encode_text(["The liver shows steatosis.", "The spleen is enlarged."])
>>> images @ texts.T
"""

from __future__ import annotations

from pathlib import Path

from ctglip.inference.pipeline import Pipeline
from ctglip.inference.readers import Read
from ctglip.models.release import Release, load_release


def load_model(path: Path | str | Release, read: Read = "organs") -> Pipeline:
    """Load a trained model, ready to be asked: about scans, or about radiographs where it was trained on radiographs.

    Args:
        path: a run folder or a ``model/`` folder; or a release that is loaded already (that of a ``HubModel``).
        read: how radiographs are read, see ``Pipeline``; scans are read in one way.

    Raises:
        ModelError: it is neither, or damaged; ``not_aligned``: it was trained without texts.
    """
    release = path if isinstance(path, Release) else load_release(Path(path))
    return Pipeline(release, read)
