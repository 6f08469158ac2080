"""Models that read whole scans are tuned too: by label maps, by boxes, by queries, or without any organ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ctglip.config import validate
from ctglip.data.samples import OrganInstance
from ctglip.errors import StoreError
from ctglip.evaluation.run import evaluate
from ctglip.evaluation.settings import EvaluateConfig
from ctglip.inference.encoding import read_organs
from ctglip.inference.model_readers import reader_of
from ctglip.inference.scoring import Scorer
from ctglip.models.release import Release, load_release
from ctglip.store.study import organ_row
from ctglip.store.tables import Store
from ctglip.tasks.base import Initialization
from ctglip.tasks.inputs import cached_features, image_inputs
from ctglip.tasks.network import build_network
from ctglip.tasks.release import FinetunedModel
from ctglip.tasks.settings import ClassificationConfig
from ctglip.tasks.studies import join
from ctglip.tasks.targets import read_targets
from ctglip.tasks.tuning import finetune
from ctglip.training.launch import pretrain
from tests.inference.reading import encoded
from tests.training.conftest import tiny_config
from tests.training.test_registry import KINDS
from tests.training.tiny import write_tiny_store, write_word_bert

CONFIG = validate(
    ClassificationConfig,
    {
        "mode": "full",
        "fit": {"epochs": 2, "batch": 6, "device": "cpu", "threads": 1},
        "evaluate": {"draws": 20, "min_positives": 1},
    },
    "test",
)


@pytest.fixture(scope="module")
def runs(tiny: tuple[Store, Path], tmp_path_factory: pytest.TempPathFactory):
    made: dict[str, Path] = {}
    folder = tmp_path_factory.mktemp("scans")
    bert = write_word_bert(folder / "bert")

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = folder / kind.replace(", ", "-")
            pretrain(tiny[0].path, made[kind], tiny_config(bert, KINDS[kind], steps=2))
        return made[kind]

    return make


def studies_of(release: Release, tiny: tuple[Store, Path]):
    return join(read_targets(tiny[1], Scorer(release).dictionaries, release.organs), tiny[0])


@pytest.mark.parametrize("kind", ["organ_query, mask", "organ_query, box", "organ_query, query", "global_pair"])
def test_a_tuned_model_reads_scans_as_inference_does(kind: str, runs, tiny: tuple[Store, Path]) -> None:
    store = tiny[0]
    release = load_release(runs(kind))
    studies = studies_of(release, tiny)
    kept = cached_features(store, release, studies, CONFIG)
    live = image_inputs(store, release, studies, CONFIG)
    rows, _ = live.bags.rows([4, 1])
    with torch.no_grad():
        found = read_organs(release.model, live.read(rows, None))  # type: ignore[arg-type]
    torch.testing.assert_close(found, kept.features[torch.from_numpy(rows)], atol=1e-5, rtol=1e-4)
    for study in (1, 4):
        name = studies.study_ids[study]
        own, _ = live.bags.rows([study])
        wanted = [live.bags.organs[live.bags.organ[row]] for row in own]
        table = {row["organ"]: organ_row(row) for row in store.table("organs").iter_rows(named=True)
                 if row["study_id"] == name}  # fmt: skip
        said = encoded(reader_of(release), store, [OrganInstance(name, table[organ]) for organ in wanted])
        np.testing.assert_allclose(kept.features[torch.from_numpy(own)].numpy(), said.features, atol=1e-4)


@pytest.mark.parametrize("kind", ["organ_query, mask", "global_pair"])
def test_whole_scans_are_tuned_beside_crops(
    kind: str, runs, run: Path, tiny: tuple[Store, Path], tmp_path: Path
) -> None:
    settings = CONFIG.model_copy(update={"baselines": (str(runs(kind)),)})
    results = finetune(run, tiny[0].path, tmp_path, tiny[1], settings)
    assert {point.initialization for point in results.points} == {"run", runs(kind).name}
    assert all(point.score.value is not None for point in results.points)
    mine = finetune(runs(kind), tiny[0].path, tmp_path / "itself", tiny[1], CONFIG)
    assert mine.mode == "full"
    assert (
        FinetunedModel(tmp_path / "itself")
        .predict(tiny[0], tiny[0].study_ids[:3])["probability"]
        .is_between(0, 1)
        .all()
    )


def test_a_model_without_organs_starts_from_its_own_zero_shot_answer(runs, tiny: tuple[Store, Path]) -> None:
    release = load_release(runs("global_pair"))
    studies = studies_of(release, tiny)
    kept = cached_features(tiny[0], release, studies, CONFIG)
    network = build_network(
        Initialization("clip", release, False, "head"), studies.targets, kept.bags.organs, CONFIG
    ).eval()
    scorer = Scorer(release)
    rows, owner = kept.bags.rows([0, 1])
    with torch.no_grad():
        read = {**kept.read(rows, None), "bag_organ": torch.from_numpy(kept.bags.organ[rows]),
                "bag_study": torch.from_numpy(owner)}  # fmt: skip
        logits = network(read, 2)
        whole = release.model.image_head(kept.features[torch.from_numpy(rows)]).numpy()
    for number, target in enumerate(studies.targets):
        assert target.abnormality is not None
        first = [int(np.flatnonzero(owner == study)[0]) for study in (0, 1)]
        axis = scorer.differences(whole[first], [(target.organs[0], target.abnormality)])[:, 0]
        expected = scorer.calibration.scale * axis + scorer.calibration.bias
        np.testing.assert_allclose(logits[:, number].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["global_pair", "organ_query, query"])
def test_scans_without_masks_are_read_by_models_that_need_none(
    kind: str, runs, tiny: tuple[Store, Path], tmp_path: Path
) -> None:
    """Each organ may be anywhere: the same scans with and without masks give the same vectors."""
    bare, truth = write_tiny_store(tmp_path / "bare", len(tiny[0].study_ids), masks=False)
    release = load_release(runs(kind))
    reader, organs = reader_of(release), sorted(release.provenance["trained"])
    found = reader.instances(bare, bare.study_ids[:2], organs)
    assert [(one.study_id, one.organ) for one in found] == [(n, o) for n in bare.study_ids[:2] for o in organs]
    masked = reader.instances(tiny[0], bare.study_ids[:2], organs)
    there = {(one.study_id, one.organ) for one in masked}
    kept = encoded(reader, bare, [one for one in found if (one.study_id, one.organ) in there])
    np.testing.assert_allclose(kept.diagnosis, encoded(reader, tiny[0], masked).diagnosis, atol=1e-5)
    settings = EvaluateConfig(draws=20, min_positives=1, device="cpu", controls=False)
    results = evaluate(runs(kind), bare.path, tmp_path / "evaluation", labels=truth, config=settings)
    assert results.macro_auroc.value is not None
    tuned = finetune(runs(kind), bare.path, tmp_path / "tuned", truth, CONFIG.model_copy(update={"mode": "probe"}))
    assert tuned.score.value is not None


@pytest.mark.parametrize("kind", ["organ_query, mask", "organ_query, box"])
def test_scans_without_masks_are_refused_by_models_that_need_them(kind: str, runs, tmp_path: Path) -> None:
    bare, truth = write_tiny_store(tmp_path / "bare", 10, masks=False)
    assert reader_of(load_release(runs(kind))).instances(bare, bare.study_ids, ["liver"]) == []
    with pytest.raises(StoreError, match="holds none of the model's organs"):
        evaluate(runs(kind), bare.path, tmp_path / "evaluation", labels=truth)
