"""Evaluation on radiographs: organs by boxes or whole radiographs, retrieval, the five-by-200 protocol, pointing, tags,
lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_array_equal
from sklearn.metrics import roc_auc_score

from ctglip.errors import ConfigError, ModelError, StoreError
from ctglip.evaluation.composed import compose, cxr_words
from ctglip.evaluation.parts.five_by_200 import exclusive, nearest_class, precision_at
from ctglip.evaluation.parts.localization import distance_outside, point
from ctglip.evaluation.parts.protocol import load_protocol, protocol_names
from ctglip.evaluation.published_tables import published_tables
from ctglip.evaluation.run import evaluate
from ctglip.evaluation.settings import EvaluateConfig
from ctglip.files import read_json
from ctglip.models.tags import TagSettings
from ctglip.store.tables import Store
from ctglip.vocabulary.abnormalities import load_abnormalities
from tests.inference.tiny_cxr import cxr_release, saved, write_cxr_store
from tests.store.tables_of import change_table
from tests.training.tiny import write_tiny_store, write_word_bert

CLASSES = ("cardiomegaly", "pleural_effusion")
CONFIG = EvaluateConfig.model_validate(
    {"draws": 50, "min_positives": 2, "device": "cpu", "parts": ("retrieval", "five_by_200", "localization", "tags"),
     "five_by_200": {"classes": CLASSES, "per_class": 2}}
)  # fmt: skip


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_word_bert(tmp_path_factory.mktemp("bert") / "bert")


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    return write_cxr_store(tmp_path_factory.mktemp("radiographs") / "store", 60)


def set_radiographs(**radiographs: object) -> EvaluateConfig:
    return CONFIG.model_copy(update={"cxr": CONFIG.cxr.model_copy(update=radiographs)})


def test_cxr_with_boxes_are_evaluated_organ_by_organ(
    radiographs: tuple[Store, Path], bert: Path, tmp_path: Path
) -> None:
    store, truth = radiographs
    run = saved(
        tmp_path, cxr_release(bert, regions={"name": "box"}, tags=TagSettings(layers=1), tag_names=("cardiomegaly",))
    )
    lesions = pl.DataFrame({"study_id": store.study_ids, "organ": "heart", "abnormality": "cardiomegaly"})
    boxes = lesions.with_columns(row0=pl.lit(55), row1=pl.lit(92), column0=pl.lit(40), column1=pl.lit(74))
    boxes.write_csv(tmp_path / "lesions.csv")
    config = CONFIG.model_copy(update={"lesions": str(tmp_path / "lesions.csv")})
    results = evaluate(run, store.path, tmp_path / "out", labels=truth, config=config)
    assert {(p.organ, p.abnormality) for p in results.pairs} == {
        ("heart", "cardiomegaly"), ("pleura_left", "pleural_effusion"), ("pleura_right", "pleural_effusion"),
    }  # fmt: skip
    scores = pl.read_parquet(tmp_path / "out" / "scores.parquet")
    for pair in results.pairs:
        rows = scores.filter((pl.col("organ") == pair.organ) & (pl.col("abnormality") == pair.abnormality))
        assert pair.auroc.value == pytest.approx(roc_auc_score(rows["label"], rows["probability"]))
    assert [control.name for control in results.controls] == ["Box only"]
    assert results.recognition is not None
    assert results.threshold_source == "best F1 on the split val"
    assert {"retrieval", "five_by_200", "localization", "tags"} <= results.parts.keys()
    pointed = {one.abnormality: one for one in results.parts["localization"].rows}
    assert pointed.keys() == {"all", "cardiomegaly"}, "no lesion of an effusion is known"
    assert pointed["cardiomegaly"].organ is None, "the map lies in the organ's box anyway"
    assert pointed["cardiomegaly"].lesion_chance == pytest.approx(37 * 34 / (40 * 34), abs=0.2)
    trained = {t.abnormality: t.trained for t in results.parts["tags"].findings}
    assert trained == {"cardiomegaly": True, "pleural_effusion": False}
    five = results.parts["five_by_200"]
    assert (five.per_class, five.complete, len(five.prompts["cardiomegaly"])) == (2, True, 5)
    page = (tmp_path / "out" / "report.html").read_text()
    for words in (
        "Box only",
        "Does it look at the finding?",
        "2 classes of 2 radiographs",
        "decoder of tags",
        "Radiograph to impression",
    ):
        assert words in page
    assert read_json(tmp_path / "out" / "results.json")["parts"]["five_by_200"]["per_class"] == 2


def test_whole_cxr_have_one_vector_and_no_recognition(
    radiographs: tuple[Store, Path], bert: Path, tmp_path: Path
) -> None:
    store, _ = radiographs
    run = saved(tmp_path, cxr_release(bert, regions={"name": "box"}))
    results = evaluate(run, store.path, tmp_path / "out", config=set_radiographs(read="whole", composed=5))
    assert results.recognition is None
    assert results.controls == ()
    assert results.label_source == "findings of the store's reports"
    assert "own prompts for 3 of 3 pairs" in results.prompts
    directions = {one.name: one for one in results.parts["retrieval"].directions}
    assert set(directions) == {f"{a} to {b}" for section in ("findings", "impression", "report")
                               for a, b in (("radiograph", section), (section, "radiograph"))}  # fmt: skip
    assert directions["radiograph to impression"].queries == results.studies
    assert (
        directions["radiograph to impression"].median_rank == 1
        or directions["radiograph to impression"].at[0].chance > 0.3
    )
    pointed = {one.abnormality: one for one in results.parts["localization"].rows}
    assert pointed["cardiomegaly"].organ is not None
    assert pointed["cardiomegaly"].lesion is None


def test_a_second_evaluation_reads_the_cache(
    radiographs: tuple[Store, Path], bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, truth = radiographs
    run = saved(tmp_path, cxr_release(bert, seed=3))
    config = CONFIG.model_copy(update={"parts": ("retrieval", "five_by_200"), "cache": str(tmp_path / "cache")})
    first = evaluate(run, store.path, tmp_path / "one", labels=truth, config=config)

    def never(*_: object) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr("ctglip.inference.readers.encode_inputs", never)
    second = evaluate(run, store.path, tmp_path / "two", labels=truth, config=config)
    assert first.to_json() == second.to_json()


def test_lists_of_studies_stay_within_their_split(radiographs: tuple[Store, Path], bert: Path, tmp_path: Path) -> None:
    store, truth = radiographs
    run = saved(tmp_path, cxr_release(bert))
    splits = store.table("splits")
    test, val = (splits.filter(pl.col("split") == name)["study_id"].to_list() for name in ("test", "val"))
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(test[:12]) + "\n")
    config = CONFIG.model_copy(update={"studies": str(listed), "parts": ()})
    assert evaluate(run, store.path, tmp_path / "out", labels=truth, config=config).studies == 12
    listed.write_text("\n".join([*test[:12], val[0]]))
    with pytest.raises(StoreError, match="not in the split 'test'"):
        evaluate(run, store.path, tmp_path / "out", labels=truth, config=config)


def test_models_and_stores_of_other_modalities(radiographs: tuple[Store, Path], bert: Path, tmp_path: Path) -> None:
    release = cxr_release(bert)
    ct, _ = write_tiny_store(tmp_path / "ct", 4)
    with pytest.raises(ModelError, match=r"trained on radiographs.*store of CT scans"):
        evaluate(saved(tmp_path, release), ct.path, tmp_path / "out", config=CONFIG)
    release.cxr, release.scans = None, {}
    with pytest.raises(ModelError, match=r"trained on CT scans.*store of radiographs"):
        evaluate(saved(tmp_path / "scans", release), radiographs[0].path, tmp_path / "out", config=CONFIG)
    release = cxr_release(bert)
    release.aligned = False
    with pytest.raises(ModelError, match="ctglip finetune"):
        evaluate(saved(tmp_path / "unaligned", release), radiographs[0].path, tmp_path / "out", config=CONFIG)


def test_without_boxes_the_message_says_what_to_do(bert: Path, tmp_path: Path) -> None:
    store, truth = write_cxr_store(tmp_path / "store", 8)
    change_table(store, "regions", pl.DataFrame.clear)
    with pytest.raises(StoreError, match=r"cxr\.read=whole"):
        evaluate(
            saved(tmp_path, cxr_release(bert, regions={"name": "box"})), store.path, tmp_path / "out", labels=truth
        )


def test_exclusive_positives_are_drawn_by_the_seed() -> None:
    rng = np.random.default_rng(0)
    labels = {name: rng.choice([0.0, 1.0, np.nan], 400, p=[0.5, 0.3, 0.2]) for name in "abc"}
    found = exclusive(labels, 20, 0)
    for name, rows in found.items():
        assert len(rows) == len(set(rows)) == 20
        assert all(labels[name][rows] == 1)
        assert not any((labels[other][rows] == 1).any() for other in labels if other != name)
    again, other = exclusive(labels, 20, 0), exclusive(labels, 20, 1)
    assert_array_equal(found["a"], again["a"])
    assert list(found["a"]) != list(other["a"])
    assert len(exclusive(labels, 1000, 0)["a"]) == int(
        ((labels["a"] == 1) & (labels["b"] != 1) & (labels["c"] != 1)).sum()
    )


def test_precision_at_k() -> None:
    similarity = np.array([[0.9, 0.8, 0.1, 0.5], [0.1, 0.1, 0.1, 0.1]])
    truth = np.array([0, 1, 0, 1])
    assert_array_equal(precision_at(similarity, np.array([0, 1]), truth, 1), [1.0, 0.0])
    assert_array_equal(precision_at(similarity, np.array([0, 1]), truth, 2), [0.5, 0.0])
    assert_array_equal(precision_at(similarity, np.array([0, 1]), truth, 4), [0.5, 0.5])


def test_standardising_takes_a_class_that_is_near_to_everything_down() -> None:
    similarity = np.array([[0.5, 0.81], [0.1, 0.8], [0.1, 0.9]])
    assert similarity.argmax(1).tolist() == [1, 1, 1]
    assert nearest_class(similarity).tolist()[::2] == [0, 1]


def test_no_part_depends_on_the_order_or_the_batch(radiographs: tuple[Store, Path], bert: Path, tmp_path: Path) -> None:
    """Scored over all radiographs at once: other batches, the same numbers."""
    store, truth = radiographs
    run = saved(tmp_path, cxr_release(bert))
    config = CONFIG.model_copy(update={"parts": ("five_by_200",)})
    found = [
        evaluate(
            run, store.path, tmp_path / f"{batch}", labels=truth,
            config=config.model_copy(update={"batch": batch, "cache": str(tmp_path / f"cache{batch}")}),
        ).parts["five_by_200"]
        for batch in (2, 64)
    ]  # fmt: skip
    assert found[0].accuracy.value == found[1].accuracy.value
    assert found[0].text_to_image[0].precision == found[1].text_to_image[0].precision


def test_prompts_are_composed_by_the_seed() -> None:
    abnormalities = load_abnormalities()
    assert set(cxr_words()) <= set(abnormalities.names)
    for name in cxr_words():
        found = compose(name, 5, 0)
        assert len(set(found)) == 5
        assert found == compose(name, 5, 0)
        assert all("  " not in text and text.endswith(".") and text[0].isupper() for text in found)
    assert compose("atelectasis", 5, 0) != compose("atelectasis", 5, 1)
    for text in compose("consolidation", 999, 0, side="left"):
        assert "right" not in text
        assert "both" not in text
    with pytest.raises(ConfigError, match="no composed prompts"):
        compose("gallstone", 5, 0)


def test_pointing_at_discs_and_boxes() -> None:
    values, covered = np.zeros((40, 40)), np.zeros((40, 40), bool)
    covered[10:30, 10:30] = True
    values[20, 25] = 1
    values[5, 5] = 2  # not covered
    disc, box, away = (20.0, 25.0, 3.0, 3.0, 1.0), (19.5, 24.5, 2.0, 3.0, 0.0), (35.0, 5.0, 2.0, 2.0, 1.0)
    for lesion in (disc, box):
        outside = distance_outside(values.shape, lesion)
        answer = point("x", 0, values, covered, 2.0, outside)
        assert answer.hit[0] == 1
        assert answer.chance[0] == pytest.approx((outside <= 0)[10:30, 10:30].mean())
        assert np.isnan(answer.hit[2])
    far, organ = (distance_outside(values.shape, one) for one in (away, box))
    assert point("x", 0, values, covered, 2.0, far, organ).hit == (0, 0, 1)
    edges = np.argwhere(distance_outside((40, 40), box) <= 0)
    assert_array_equal([edges.min(0), edges.max(0)], [[18, 22], [21, 27]])


def test_published_tables_are_whole_and_say_where_they_are_from() -> None:
    tables = published_tables()
    assert {
        "cxr_linear_probe",
        "cxr_segmentation",
        "cxr_asg_ablation",
        "cxr_benchx",
        "cxr_five_by_200",
    } <= tables.keys()
    for table in tables.values():
        assert all(table.source_of(row) for row in table.rows)
        assert all(0 < value <= 100 for row in table.rows for values in row.values.values() for value in values)
    for name in protocol_names():
        for key, column in load_protocol(name).tables.items():
            assert column in tables[key].columns


def test_published_numbers_stand_beside_own_ones_only_under_their_protocol(
    radiographs: tuple[Store, Path], bert: Path, tmp_path: Path
) -> None:
    store, truth = radiographs
    run = saved(tmp_path, cxr_release(bert))
    config = CONFIG.model_copy(update={"parts": ("probe", "five_by_200"), "pictures": False})
    evaluate(run, store.path, tmp_path / "plain", labels=truth, config=config)
    results = evaluate(
        run, store.path, tmp_path / "nih", labels=truth, config=config.model_copy(update={"protocol": "cxr_nih_14"})
    )
    plain, nih = ((tmp_path / name / "report.html").read_text() for name in ("plain", "nih"))
    assert "MGCA" not in plain
    assert "ConVIRT, precision" not in nih, "two classes of two radiographs are not 5 x 200"
    assert "MGCA" in nih
    found = results.parts["protocol"]
    assert [one.finding for one in found.findings] == ["Cardiomegaly", "Effusion"]
    assert found.accuracy == pytest.approx(np.mean([one.at.accuracy for one in found.findings]))
    assert found.left_out["Mass"] == "no label"
    published = {one["model"]: one["accuracy"] for one in found.published}
    assert published == {"ASG": 0.9, "MedKLIP": 0.878, "BioViL": 0.859}


@pytest.mark.parametrize("rule", ["validation_f1", "test_f1"])
def test_where_thresholds_come_from(radiographs: tuple[Store, Path], bert: Path, tmp_path: Path, rule: str) -> None:
    """Labels of the judged split that are turned round move a threshold only where it is chosen on them."""
    store, truth = radiographs
    run = saved(tmp_path, cxr_release(bert))
    test = store.table("splits").filter(pl.col("split") == "test")["study_id"].to_list()
    turned = pl.read_csv(truth).with_columns(
        pl.when(pl.col("study_id").is_in(test)).then(1 - pl.col(n)).otherwise(pl.col(n)).alias(n)
        for n in ("heart:cardiomegaly", "pleura_left:pleural_effusion", "pleura_right:pleural_effusion")
    )
    turned.write_csv(tmp_path / "turned.csv")
    config = CONFIG.model_copy(update={"parts": (), "threshold": rule, "pictures": False})
    found = [
        [p.at.threshold for p in evaluate(run, store.path, tmp_path / t.stem, labels=t, config=config).pairs if p.at]
        for t in (truth, tmp_path / "turned.csv")
    ]
    assert (found[0] == found[1]) == (rule == "validation_f1")
