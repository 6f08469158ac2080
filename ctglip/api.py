"""The library in five lines.

>>> import ctglip
>>> model = ctglip.load_model("run")
>>> answers = model.query("scan.nii.gz", ["liver: fatty liver", "gallstones?"], masks="masks.nii.gz")
>>> for answer in answers.answers:
...     print(answer.question, answer.probability)
"""

from __future__ import annotations

from pathlib import Path

from ctglip.inference.pipeline import Pipeline
from ctglip.models.release import load_release


def load_model(path: Path | str) -> Pipeline:
    """Load a trained model, ready to be asked.

    Args:
        path: a run folder or a ``model/`` folder.

    Raises:
        ModelError: it is neither, or damaged.
    """
    return Pipeline(load_release(Path(path)))
