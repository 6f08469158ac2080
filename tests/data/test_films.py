"""Films of a split: windows, boxes that move with them, missing sections, sentences of regions, tags."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from ctglip.data.film_organs import FilmOrganDataset
from ctglip.data.films import FilmDataset, FilmDataSettings
from ctglip.data.organs import DataSettings
from ctglip.data.sayings import NO_TEXT
from ctglip.errors import StoreError
from ctglip.film.recipe import FILM_MAX
from ctglip.film.regions import Region
from ctglip.objectives.samples import collate_pairs, collate_studies
from ctglip.objectives.texts import Texts
from ctglip.store.format import StoreInfo
from ctglip.store.splits import SplitSettings, assign_splits
from ctglip.store.study import StudyRecord, write_study
from ctglip.store.tables import Store, compact, create_store
from ctglip.text.reports import get_parser
from ctglip.types import Report, Standardized
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs

REPORTS = (
    Report("The lungs are clear. The heart is enlarged.", "Cardiomegaly.", indication="Cough."),
    Report("Consolidation in the right lower lobe. No pneumothorax.", None),
    Report(None, "No acute disease."),
    Report("The lungs are clear. The heart is enlarged.", "   "),
)
SETTINGS = FilmDataSettings(size=32, batch=2, copies=2, margin=1.25, contrast=0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Four frontal films with a bright heart, one lateral film, one without a report; the heart has a box."""
    info = StoreInfo(modality="cxr", recipe={"size": 80}, recipe_hash="x")
    made = create_store(tmp_path_factory.mktemp("films") / "store", info)
    for number in range(6):
        image = np.full((80, 80), 800, np.uint16)
        image[40:60, 44:64] = FILM_MAX
        report = REPORTS[number] if number < 4 else (REPORTS[0] if number == 4 else None)
        record = StudyRecord(
            f"f{number}",
            f"p{number}",
            Standardized(image, None, np.eye(4)),
            str(number),
            "x",
            report=report,
            findings=get_parser().parse(report) if report else (),
            row={"modality": "cxr", "view": "lateral" if number == 4 else "pa"},
            regions=(Region("cardiac_silhouette", 40, 60, 44, 64), Region("right_lung", 10, 60, 4, 30)),
        )
        write_study(made.path, record)
    compact(made)
    assign_splits(made, SplitSettings(), {f"p{number}": "train" for number in range(6)})
    return made


def test_missing_sections_stay_missing(store: Store) -> None:
    films = FilmDataset(store, "train", SETTINGS)
    assert films.study_ids == ["f0", "f1", "f2", "f3"], "no lateral film, none without a report"
    found = [films.sample(row) for row in range(4)]
    assert [film.findings != NO_TEXT for film in found] == [True, True, False, True]
    assert [film.impression != NO_TEXT for film in found] == [True, False, True, False]
    assert found[1].report == found[1].findings
    assert all(text.strip() for text in films.texts)
    assert found[0].findings == found[3].findings, "equal texts share a number"
    assert films.texts[found[0].report].endswith("Cardiomegaly.")
    assert not any("Cough" in text for text in films.texts)


def test_boxes_move_with_the_windows(store: Store) -> None:
    films = FilmDataset(store, "train", SETTINGS)
    places = set()
    for step in range(6):
        for film in films.samples(step):
            assert film.images.shape == (2, 1, 32, 32)
            at = film.region_id.tolist().index(films.regions.index("cardiac_silhouette"))
            for image, boxes in zip(film.images, film.boxes, strict=True):
                row0, row1, column0, column1 = boxes[at].round().astype(int)
                places.add((row0, column0))
                bright = image[0] > 0.8 * image.max()
                rows, columns = np.nonzero(bright)
                assert rows.min() == pytest.approx(row0, abs=1)
                assert rows.max() + 1 == pytest.approx(row1, abs=1)
                assert columns.min() == pytest.approx(column0, abs=1)
                assert columns.max() + 1 == pytest.approx(column1, abs=1)
    assert len(places) > 4, "windows are drawn anew"


def test_a_mirrored_film_has_mirrored_boxes(store: Store) -> None:
    films = FilmDataset(store, "train", SETTINGS.model_copy(update={"flip": 1.0, "copies": 1}))
    film = films.sample(0, np.random.default_rng(0))
    at = film.region_id.tolist().index(films.regions.index("cardiac_silhouette"))
    _, _, column0, column1 = film.boxes[0, at].round().astype(int)
    columns = np.nonzero(film.image[0] > 0.8 * film.image.max())[1]
    assert (columns.min(), columns.max() + 1) == pytest.approx((column0, column1), abs=1)
    assert columns.mean() < 16


def test_regions_get_their_sentences(store: Store) -> None:
    films = FilmDataset(store, "train", SETTINGS, training=False)
    first, second = films.sample(0), films.sample(1)
    said = {films.regions[i]: text for i, text in zip(first.region_id, first.region_text, strict=True)}
    assert films.texts[said["right_lung"]] == "The lungs are clear."
    assert films.texts[said["cardiac_silhouette"]] == "The heart is enlarged. Cardiomegaly."
    grounded = second.grounded()
    assert [films.regions[i] for i in grounded.organ_id] == ["right_lung"], "nothing is said of the heart"
    assert films.texts[grounded.text_id[0]].startswith("Consolidation in the right lower lobe.")
    assert grounded.boxes.shape == (1, 4)
    same, other = first.region_sentences
    assert same != other


def test_tags(store: Store) -> None:
    films = FilmDataset(store, "train", SETTINGS)
    first, second = films.sample(0), films.sample(1)
    tag = {name: number for number, name in enumerate(films.tag_names)}
    assert first.tags[tag["cardiomegaly"]] == 1
    assert second.tags[tag["consolidation"]] == 1
    assert second.tags[tag["pneumothorax"]] == 0
    assert second.tags[tag["hernia"]] == -1


def test_batches_are_a_function_of_the_step_and_ranks_share_them(store: Store) -> None:
    films, again = (FilmDataset(store, "train", SETTINGS, seed=3) for _ in range(2))
    for step in (0, 1, 5):
        whole, repeated = films.samples(step), again.samples(step)
        shared = [*films.samples(step, 0, 2), *films.samples(step, 1, 2)]
        for others in (repeated, shared):
            assert sorted(film.study_id for film in others) == sorted(film.study_id for film in whole)
        for a, b in zip(whole, repeated, strict=True):
            np.testing.assert_array_equal(a.images, b.images)
        by_id = {film.study_id: film for film in shared}
        for film in whole:
            np.testing.assert_array_equal(film.images, by_id[film.study_id].images)
    epoch = [film.study_id for step in (0, 1) for film in films.samples(step)]
    assert sorted(epoch) == films.study_ids


def test_bound_numbers_reach_the_samples(store: Store) -> None:
    films = FilmDataset(store, "train", SETTINGS)
    films.bind([100 + n for n in range(len(films.texts))])
    found = [films.sample(row) for row in range(4)]
    assert all(film.report >= 100 and film.pair().text_id == film.report for film in found)
    assert found[2].findings == NO_TEXT
    assert all(number >= 100 for film in found for number in film.sentences.values())


def test_what_cannot_be_a_dataset_of_films(store: Store, tmp_path: Path) -> None:
    ct = create_store(tmp_path / "ct", StoreInfo(recipe={}, recipe_hash="x"))
    with pytest.raises(StoreError) as caught:
        FilmDataset(ct, "train", SETTINGS)
    assert caught.value.code == "not_films"
    with pytest.raises(StoreError) as caught:
        FilmDataset(store, "test", SETTINGS)
    assert caught.value.code == "empty_split"
    assert store.table("regions").select(pl.len()).item() == 12


def test_organs_of_films_get_true_texts_and_false_ones(store: Store) -> None:
    organs, abnormalities = load_organs(), load_abnormalities(organs=load_organs())
    films = FilmDataset(store, "train", SETTINGS)
    data = FilmOrganDataset(films, store, organs, abnormalities, DataSettings(negatives=3))
    names = dict(enumerate(organs.names))
    false: set[tuple[str, str]] = set()
    for step in range(8):
        for film, known in zip(data.batch(step), films.samples(step), strict=True):
            np.testing.assert_array_equal(film.image, known.image)
            assert film.boxes.shape == (2, 4)
            assert film.negative_ids.shape == (2, 3)
            assert {names[i] for i in film.organ_id} == {"heart", "lung_right"}
            for organ, text, negatives in zip(film.organ_id, film.text_id, film.negative_ids, strict=True):
                said = [data.texts[n] for n in negatives if n != NO_TEXT]
                if text != NO_TEXT and names[organ] == "heart":
                    assert not any("cardiomegaly" in one.lower() or "enlarged" in one.lower() for one in said)
                false |= {(names[organ], one) for one in said}
    assert any(organ == "lung_right" for organ, _ in false), "the other film's consolidation is false of a clear lung"
    batch = collate_studies(data.batch(0), _Texts())
    assert batch.boxes is not None
    assert batch.boxes.shape == (4, 4)
    assert batch.image.shape == (2, 1, 32, 32)


def test_films_are_pairs_and_studies_to_the_objectives(store: Store) -> None:
    films = FilmDataset(store, "train", SETTINGS)
    found = films.samples(0)
    pairs = collate_pairs([film.pair() for film in found], _Texts())
    assert pairs.image.shape == (2, 1, 32, 32)
    regions = collate_studies([film.grounded() for film in found], _Texts())
    assert regions.study_index.max() <= 1
    assert regions.boxes is not None
    assert len(regions.boxes) == len(regions.text_id)


class _Texts(Texts):
    """No bank: the numbers themselves."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def collate(self, *ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = torch.cat([one.flatten() for one in ids]).unique()
        return found, found[:, None].float()


def test_films_that_do_not_fit_in_memory_are_read_each_time(store: Store) -> None:
    kept, read = (FilmDataset(store, "train", SETTINGS.model_copy(update={"keep_gb": gb})) for gb in (1.0, 0.0))
    for step in range(3):
        for a, b in zip(kept.samples(step), read.samples(step), strict=True):
            np.testing.assert_array_equal(a.images, b.images)
            assert a.report == b.report


@pytest.mark.parametrize("keep_gb", [1.0, 0.0])
def test_a_damaged_film_is_left_out(store: Store, monkeypatch: pytest.MonkeyPatch, keep_gb: float) -> None:
    study = Store.study

    def broken(self: Store, study_id: str) -> object:
        if study_id == "f1":
            raise StoreError("gone", code="study_damaged")
        return study(self, study_id)

    monkeypatch.setattr(Store, "study", broken)
    settings = SETTINGS.model_copy(update={"keep_gb": keep_gb, "batch": 4})
    with pytest.raises(StoreError, match="1 of 4 studies cannot be read"):
        FilmDataset(store, "train", settings).samples(0)
    monkeypatch.setattr("ctglip.data.film_reader.MAX_FAILED_SHARE", 0.5)
    films = FilmDataset(store, "train", settings)
    assert {film.study_id for step in range(2) for film in films.samples(step)} == {"f0", "f2", "f3"}
    assert [failure.code for failure in films.failures] == ["study_damaged"]
    organs = load_organs()
    data = FilmOrganDataset(films, store, organs, load_abnormalities(organs=organs), DataSettings(negatives=1))
    assert len(data.batch(0)) == 3
    assert [failure.study_id for failure in data.failures] == ["f1"]
