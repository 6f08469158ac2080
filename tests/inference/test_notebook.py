"""Answers in a notebook."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ctglip.api import load_model
from ctglip.inference.notebook import show, table, volumes
from ctglip.store.tables import Store


def test_scan_and_organs_are_shown_with_their_answers(trained: tuple[Store, Path], files: tuple[Path, Path]) -> None:
    model = load_model(trained[1])
    answers = model.query(files[0], ["liver: fatty liver", "left kidney: <renal cyst>"], masks=files[1])
    image, organs = volumes(answers, model.dictionaries.organs)
    hu = np.asarray(nib.Nifti1Image.from_bytes(image["data"]).dataobj)
    np.testing.assert_array_equal(hu, answers.standardized.image)
    numbers = np.asarray(nib.Nifti1Image.from_bytes(organs["data"]).dataobj)
    assert set(np.unique(numbers).tolist()) == {0, 1, 2}
    liver = answers.standardized.organs == (model.dictionaries.organs["liver"].label or 0)
    np.testing.assert_array_equal(numbers == 1, liver)
    html = table(answers)
    assert "&lt;renal cyst&gt;" in html
    assert "%" in html


def test_the_widget_holds_table_and_viewer(trained: tuple[Store, Path], files: tuple[Path, Path]) -> None:
    pytest.importorskip("ipyniivue", reason="the extra notebook is not installed")
    model = load_model(trained[1])
    found = show(model.query(files[0], ["liver: fatty liver"], masks=files[1]), model.dictionaries.organs)
    words, viewer = found.children
    assert "fatty liver" in words.value
    assert len(viewer.volumes) == 2
