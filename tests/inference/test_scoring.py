"""The weight of negative prompts travels with the model and is used wherever it is asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ctglip.inference.scoring import Scorer
from ctglip.models.release import load_release, save_release
from ctglip.store.tables import Store

PAIR = ("liver", "liver_cyst")


def test_axes_weigh_negative_prompts_as_calibrated_and_alike_in_public_wordings(
    trained: tuple[Store, Path], tmp_path: Path
) -> None:
    release = load_release(trained[1])
    plain = Scorer(release)
    positive, negative = plain.sides([PAIR])[:, 0]
    weight = plain.calibration.negative_weight
    np.testing.assert_allclose(plain.axes([PAIR])[0], positive - weight * negative, atol=1e-6)
    release.calibration = {**release.calibration, "negative_weight": 0.25}
    save_release(tmp_path / "model", release)
    other = load_release(tmp_path / "model")
    vectors = np.random.default_rng(0).normal(size=(5, len(positive))).astype(np.float32)
    np.testing.assert_allclose(
        Scorer(other).differences(vectors, [PAIR])[:, 0], vectors @ (positive - 0.25 * negative), atol=1e-5
    )
    single = Scorer(other, wording="single")
    yes, no = single.sides([PAIR])[:, 0]
    np.testing.assert_allclose(single.axes([PAIR])[0], yes - no, atol=1e-6)
