"""A label table as a data frame, for tests that look at what a writer wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from ctglip.labels import read_labels
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs


def label_frame(path: Path) -> pl.DataFrame:
    """``study_id`` and every label as nullable integers, as the reader understands them."""
    found = read_labels(path, load_organs(), load_abnormalities())
    columns = {
        column.heading: [None if np.isnan(value) else int(value) for value in found.values[:, number]]
        for number, column in enumerate(found.columns)
    }
    return pl.DataFrame({"study_id": list(found.study_ids), **columns})
