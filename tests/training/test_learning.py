"""Learning is real: what reports say is found in images of held-out patients, and nothing is found once texts are
exchanged between studies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctglip.evaluation.bootstrap import Interval
from ctglip.evaluation.run import evaluate
from ctglip.evaluation.settings import EvaluateConfig
from ctglip.store.tables import Store
from ctglip.training.launch import pretrain
from ctglip.training.recipe import PretrainConfig
from tests.training.conftest import tiny_config
from tests.training.tiny import write_tiny_store

STEPS = 120


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    return write_tiny_store(tmp_path_factory.mktemp("learning") / "store", 150, seed=3)


def learning_config(encoder: Path, permute: bool) -> PretrainConfig:
    config = tiny_config(encoder, steps=STEPS, log_every=STEPS, checkpoint_every=STEPS)
    data = config.data.model_copy(update={"permute_texts": permute})
    sampling = config.sampling.model_copy(update={"batch": 24})
    return config.model_copy(update={"data": data, "sampling": sampling})


def judged(cohort: tuple[Store, Path], encoder: Path, folder: Path, permute: bool) -> Interval:
    store, truth = cohort
    pretrain(store.path, folder / "run", learning_config(encoder, permute))
    config = EvaluateConfig(draws=300, controls=False, device="cpu")
    return evaluate(folder / "run", store.path, folder / "out", labels=truth, config=config).macro_auroc


def test_held_out_patients_are_judged_right(cohort: tuple[Store, Path], word_bert: Path, tmp_path: Path) -> None:
    found = judged(cohort, word_bert, tmp_path, permute=False)
    assert found.value is not None
    assert found.low is not None
    assert found.value > 0.8
    assert found.low > 0.65


def test_with_texts_permuted_across_studies_nothing_is_learned(
    cohort: tuple[Store, Path], word_bert: Path, tmp_path: Path
) -> None:
    found = judged(cohort, word_bert, tmp_path, permute=True)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 0.5 <= found.high


def test_permuting_keeps_what_is_said_of_each_organ_and_changes_of_whom(cohort: tuple[Store, Path]) -> None:
    from ctglip.data.organs import OrganDataset
    from ctglip.vocabulary.abnormalities import load_abnormalities
    from ctglip.vocabulary.organs import load_organs

    config = learning_config(Path("unused"), permute=False).data
    plain = OrganDataset(cohort[0], "train", load_organs(), load_abnormalities(), config)
    mixed = OrganDataset(
        cohort[0], "train", load_organs(), load_abnormalities(), config.model_copy(update={"permute_texts": True})
    )
    for organ in config.organs:
        before = [s.affirmed for s in plain.sayings if s.organ == organ]
        after = [s.affirmed for s in mixed.sayings if s.organ == organ]
        assert sorted(before) == sorted(after)
        same = np.mean([a == b for a, b in zip(before, after, strict=True)])
        assert same < 0.75
    assert [place.organ for place in mixed.cache.places] == [s.organ for s in mixed.sayings]
