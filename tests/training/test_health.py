"""Training that went astray is stopped by a message that names batch and studies."""

from __future__ import annotations

import pytest
import torch

from ctglip.errors import ModelError
from ctglip.training.health import Collapse, not_finite

STUDIES = [f"s{i}" for i in range(10)]
FLAT = {"organ_text/image_rank": 1.01, "organ_text/negative_similarity": 0.2}
FINE = {"organ_text/image_rank": 7.0, "organ_text/negative_similarity": 0.2}


def test_a_loss_that_is_no_number_is_named():
    error = not_finite({"diagnosis": torch.tensor(float("nan"))}, 41, STUDIES)
    assert "step 42" in str(error)
    assert "s0, s1, s2, s3, s4, s5, s6, s7 and 2 more" in str(error)
    assert error.code == "not_finite"


def test_a_collapse_that_lasts_stops_training():
    watch = Collapse(after=100)
    watch.check(10, FLAT, 48, STUDIES)
    watch.check(100, FLAT, 48, STUDIES)
    with pytest.raises(ModelError, match=r"since step 10 .* 1\.01.*last seen at step 110 with studies s0, s1") as error:
        watch.check(110, FLAT, 48, STUDIES)
    assert error.value.code == "collapsed"


def test_embeddings_that_are_all_alike_are_a_collapse_whatever_their_rank():
    watch = Collapse(after=1)
    alike = {"image_rank": 9.0, "negative_similarity": 0.995}
    watch.check(1, alike, 48, STUDIES)
    with pytest.raises(ModelError, match="collapsed"):
        watch.check(2, alike, 48, STUDIES)


def test_a_passing_weakness_a_tiny_batch_and_a_wish_are_left_alone():
    watch = Collapse(after=100)
    watch.check(10, FLAT, 48, STUDIES)
    watch.check(60, FINE, 48, STUDIES)
    watch.check(120, FLAT, 48, STUDIES)
    watch.check(150, {"image_rank": float("nan")}, 48, STUDIES)
    small, never = Collapse(after=1), Collapse(after=0)
    for step in range(1, 1000, 100):
        small.check(step, FLAT, 2, STUDIES)
        never.check(step, FLAT, 48, STUDIES)
