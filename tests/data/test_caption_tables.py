"""Captions as tables, in parts, are those of all organs at once; what is derived is shared, and of this very store."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest

from ctglip.data import split_tables
from ctglip.data.caption_parts import CaptionRules, Reports, caption_part, join_captions
from ctglip.data.caption_tables import CaptionTable
from ctglip.data.captions import OrganCaptions, draw_text
from ctglip.data.crops import CropSettings
from ctglip.data.derived import derived
from ctglip.data.false_texts import Negatives
from ctglip.data.instances import InstanceTable, instance_arrays
from ctglip.data.organ_crops import instances_of
from ctglip.data.organs import CropDataSettings, OrganDataset
from ctglip.data.sampling import BalancedSampler, SamplingSettings
from ctglip.store.parts import table_path, write_parquet
from ctglip.store.study import organ_row
from ctglip.store.tables import Store
from ctglip.types import Finding
from ctglip.vocabulary import prompts
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.negatives import Strategy
from ctglip.vocabulary.organs import load_organs
from ctglip.vocabulary.prompts import load_abnormality_templates, negative_prompts, normal_prompts, positive_prompts
from tests.data.plain_captions import PlainCaptions, plain_negatives, pools_of
from tests.store.tables_of import change_table

ORGANS, ABNORMALITIES = load_organs(), load_abnormalities()
NAMES = (
    "liver",
    "spleen",
    "kidney_left",
    "kidney_right",
    "kidneys",
    "lung_left",
    "lung_right",
    "heart",
    "vertebrae_L1",
)
STUDIES = 40


def random_report(rng: np.random.Generator) -> list[Finding]:
    """Twelve sentences of the dictionaries, some with a measure of their own."""
    rows = []
    for number in range(12):
        organ = ORGANS[str(rng.choice(NAMES))]
        entries = ABNORMALITIES.of_organ(organ.name)
        entry = entries[int(rng.integers(len(entries)))]
        status: Any = str(
            rng.choice(["normal", "negated", "affirmed", "uncertain", "historical"], p=[0.3, 0.25, 0.3, 0.1, 0.05])
        )
        words = {"normal": normal_prompts(organ), "negated": negative_prompts(entry, organ)}
        text = str(rng.choice(words.get(status, positive_prompts(entry, organ))))
        if status == "affirmed" and rng.random() < 0.5:
            text += f" It measures {rng.integers(2, 90)} mm."
        rows.append(Finding(number, "findings", text, organ.name, None if status == "normal" else entry.name, status))
    return rows


@pytest.fixture(scope="module")
def reports() -> Reports:
    rng = np.random.default_rng(5)
    found: list[tuple[list[Finding], str]] = []
    for number in range(STUDIES):
        report = random_report(rng) if number % 9 else []
        found += [(report, organ) for organ in NAMES if rng.random() < 0.9]
    return found


RULES = {
    "plain": {},
    "unmentioned": {"unmentioned_as_negative": True},
    "mirrored": {"mirrored": True},
    "held out": {"held_out": frozenset({"renal_cyst", "hepatic_steatosis", "cardiomegaly"})},
}


@pytest.fixture(params=RULES)
def rules(request: pytest.FixtureRequest) -> CaptionRules:
    return CaptionRules(ORGANS, ABNORMALITIES, **RULES[request.param])


def in_parts(reports: Reports, rules: CaptionRules, rows: int) -> CaptionTable:
    parts = [caption_part(reports[at : at + rows], rules) for at in range(0, len(reports), rows)]
    table = CaptionTable(join_captions(parts, rules), rules)
    return table.take(np.flatnonzero(table.profile >= 0))


def in_words(captions: OrganCaptions, texts: Any, keys: Any) -> tuple[Any, ...]:
    """Captions without the numbers that another list of texts gives them."""
    said = [
        ([texts[n] for n in c.report], [texts[n] for n in c.dictionary], keys[c.key], c.names)
        for c in captions.captions
    ]
    return (
        captions.organ,
        captions.kind,
        captions.affirmed,
        said,
        captions.hard,
        captions.others,
        captions.near,
        captions.possible,
    )


def test_captions_of_parts_are_those_of_the_whole(reports: Reports, rules: CaptionRules) -> None:
    plain = PlainCaptions(reports, rules)
    table = in_parts(reports, rules, 37)
    keys = tuple(plain.book._keys)
    assert len(table) == len(plain.kept)
    for row, one in enumerate(plain.captions):
        assert in_words(table[row], table.texts, table.keys) == in_words(one, plain.book.texts, keys)
        turned, other = plain.mirrored.get(row), table.mirrored(row)
        assert (turned is None) == (other is None)
        if turned is not None and other is not None:
            assert in_words(other, table.texts, table.keys) == in_words(turned, plain.book.texts, keys)
    assert {one.kind for one in table} == {"abnormal", "normal", "silent"}
    assert bool(plain.mirrored) == rules.mirrored
    every = table.taught
    assert every.with_text == sum(one.kind != "silent" for one in plain.captions)
    assert every.abnormal == sum(one.kind == "abnormal" for one in plain.captions)
    assert every.organs["liver"] == tuple(
        sorted({n for one in plain.captions if one.organ == "liver" for n in one.affirmed})
    )


def test_batches_of_parts_are_those_of_the_whole(reports: Reports, rules: CaptionRules) -> None:
    plain, table = PlainCaptions(reports, rules), in_parts(reports, rules, 50)
    settings = SamplingSettings(batch=48, organs=4, silent=0.1)
    one, other = (BalancedSampler(pools, settings, 3) for pools in (pools_of(plain.captions), table.pools()))
    wordings = {strategy: plain.paraphrases() for strategy in get_args(Strategy)}
    negatives = {strategy: Negatives(table.paraphrases, strategy) for strategy in get_args(Strategy)}
    drawn = 0
    for step in range(4):
        rows = one.rows(one.rng(step))
        assert other.rows(other.rng(step)) == rows
        for strategy, tabled in negatives.items():
            first, second, taken, taken_there = np.random.default_rng(step), np.random.default_rng(step), {}, {}
            for row in rows:
                text, key = draw_text(plain.captions[row], 0.5, first, taken)
                there, key_there = draw_text(table[row], 0.5, second, taken_there)
                taken[text], taken_there[there] = key, key_there
                assert key < 0 or plain.book.texts[text] == table.texts[there]
                false = plain_negatives(wordings[strategy], strategy, plain.captions[row], 5, 0.5, first)
                false_there = tabled.draw(table[row], 5, 0.5, second).tolist()
                assert [n >= 0 and plain.book.texts[n] for n in false] == [
                    n >= 0 and table.texts[n] for n in false_there
                ]
                drawn += sum(n >= 0 for n in false)
    assert drawn > 1000


def test_permuted_captions_are_exchanged_within_an_organ(reports: Reports) -> None:
    table = in_parts(reports, CaptionRules(ORGANS, ABNORMALITIES), 1000)
    mixed = table.permuted(np.random.default_rng(0))
    assert mixed.organ.tolist() == table.organ.tolist()
    assert sorted(mixed.profile.tolist()) == sorted(table.profile.tolist())
    assert (mixed.profile != table.profile).mean() > 0.3


# ---- organ instances


@pytest.mark.parametrize("truncated", ["keep", "drop"])
def test_instances_are_the_rows_of_the_organ_table(tiny_store: Store, truncated: Any) -> None:
    names, studies = ["spleen", "liver"], tiny_store.study_ids[::-2]
    rows = [(one["study_id"], organ_row(one)) for one in tiny_store.table("organs").iter_rows(named=True)]
    expected = [
        (name, row)
        for name in studies
        for organ in names
        for study_id, row in rows
        if (study_id, row.organ) == (name, organ) and (truncated == "keep" or not row.touches_border)
    ]
    found = instances_of(tiny_store, studies, names, CropSettings(truncated=truncated))
    assert [(one.study_id, one.row) for one in found] == expected
    table = InstanceTable(
        studies, names, instance_arrays(tiny_store, studies, names, CropSettings(truncated=truncated))
    )
    assert table[-1] == found[-1]
    assert table[1:3] == found[1:3]


# ---- what is derived


def dataset(store: Store, **more: Any) -> OrganDataset:
    settings = CropDataSettings(organs=("liver", "spleen"), crops=CropSettings(grid=(8, 8, 8)), **more)
    return OrganDataset(store, "train", ORGANS, ABNORMALITIES, settings)


def words(data: OrganDataset) -> list[Any]:
    return [in_words(one, data.texts, data.keys) for one in data.captions]


def folders(store: Store) -> set[str]:
    return {path.name for path in (store.path / "derived").iterdir() if path.is_dir()}


def test_what_is_derived_once_is_read_again(own_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = words(dataset(own_store))
    before = folders(own_store)
    assert {name.split("-")[0] for name in before} == {"organs", "instances", "captions"} - {"organs"}

    def never(*_: Any) -> Any:
        raise AssertionError("it is there")

    monkeypatch.setattr(split_tables, "caption_part", never)
    monkeypatch.setattr(split_tables, "instance_arrays", never)
    again = dataset(Store.open(own_store.path))
    assert words(again) == first
    assert folders(own_store) == before
    assert not isinstance(again.captions.profile.base, type(None)), "it is mapped, not read"


@pytest.mark.parametrize("change", ["findings", "splits", "settings"])
def test_what_is_derived_from_something_else_is_not_taken(own_store: Store, change: str) -> None:
    first = dataset(own_store)
    if change == "findings":
        status = pl.when(pl.col("organ") == "spleen").then(pl.lit("normal")).otherwise("status").alias("status")
        change_table(own_store, "findings", lambda table: table.with_columns(status))
    elif change == "splits":
        table = own_store.all_splits().with_columns(pl.lit("train").alias("split"))
        write_parquet(table, table_path(own_store.path, "splits"))
    more = {"unmentioned_as_negative": True} if change == "settings" else {}
    later = dataset(Store.open(own_store.path), **more)
    captions = {path for path in folders(own_store) if path.startswith("captions-")}
    assert len(captions) == 2
    if change == "findings":
        assert not any("splenomegaly" in one.affirmed for one in later.captions)
    if change == "splits":
        assert len(later) > len(first)
        assert {one.study_id for one in later.instances} == set(own_store.study_ids)


def test_a_store_that_may_not_be_written_is_derived_in_memory(
    own_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = words(dataset(own_store))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    own_store.path.joinpath("derived").rename(own_store.path / "away")
    monkeypatch.setattr(np, "save", full)
    assert words(dataset(Store.open(own_store.path))) == expected


def test_a_damaged_file_is_made_anew(own_store: Store) -> None:
    expected = words(dataset(own_store))
    (folder,) = (own_store.path / "derived").glob("captions-*")
    (folder / "profile.npy").write_bytes((folder / "profile.npy").read_bytes()[:100])
    assert words(dataset(Store.open(own_store.path))) == expected


@pytest.mark.parametrize("left", ["some", "none"])
def test_a_folder_that_lacks_files_is_made_anew(own_store: Store, left: str) -> None:
    """As deleting leaves it that was cut off."""
    expected = words(dataset(own_store))
    for name in folders(own_store):
        for file in sorted((own_store.path / "derived" / name).iterdir())[left == "some" :]:
            file.unlink()
    assert words(dataset(Store.open(own_store.path))) == expected
    assert len(list((own_store.path / "derived").glob("captions-*/profile.npy"))) == 1


@pytest.mark.parametrize("edited", ["load_abnormality_templates", "load_organs", "load_abnormalities", "version"])
def test_captions_of_other_shipped_dictionaries_are_not_taken(
    own_store: Store, monkeypatch: pytest.MonkeyPatch, edited: str
) -> None:
    dataset(own_store)
    templates = load_abnormality_templates()
    others = {
        "load_abnormality_templates": lambda: templates.model_copy(update={"normal": ("All is well.",)}),
        "load_organs": lambda: SimpleNamespace(hash="another"),
        "load_abnormalities": lambda: SimpleNamespace(hash="another"),
        "version": lambda _: "another",
    }
    for module in (prompts, split_tables):
        if hasattr(module, edited):
            monkeypatch.setattr(module, edited, others[edited])
    texts = list(dataset(Store.open(own_store.path)).texts)
    assert len(list((own_store.path / "derived").glob("captions-*"))) == 2
    assert ("All is well." in texts) == (edited == "load_abnormality_templates")


def test_parts_that_were_made_are_joined_where_the_disk_is_full_then(
    own_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = np.save

    def full(file: Path, *more: Any, **how: Any) -> None:
        if file.stem == "sum":
            raise OSError(28, "No space left on device")
        save(file, *more, **how)

    monkeypatch.setattr(np, "save", full)
    assert _derive(own_store.path, tmp_path / "log") == list(range(6))
    assert (tmp_path / "log").read_text().split() == ["0", "1", "2", "3", "4", "5"]


PART_S = 0.2


def _derive(path: Path, log: Path, die_at: int | None = None) -> Any:
    def part(number: int) -> dict[str, np.ndarray]:
        if number == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(PART_S)
        with log.open("a") as stream:
            stream.write(f"{number}\n")
        return {"number": np.array([number])}

    parts = [lambda number=number: part(number) for number in range(6)]
    found = derived(
        Store.open(path), "test", "key", parts, lambda some: {"sum": np.concatenate([p["number"] for p in some])}
    )
    return found["sum"].tolist()


def _derive_to(path: Path, log: Path, out: Any) -> None:
    out.put(_derive(path, log))


def test_processes_that_derive_at_once_share_the_parts(own_store: Store, tmp_path: Path) -> None:
    context, log = multiprocessing.get_context("fork"), tmp_path / "log"
    answers = context.Queue()
    workers = [context.Process(target=_derive_to, args=(own_store.path, log, answers)) for _ in range(3)]
    for worker in workers:
        worker.start()
    assert [answers.get(timeout=60) for _ in workers] == [list(range(6))] * 3
    for worker in workers:
        worker.join()
    assert sorted(log.read_text().split()) == [str(number) for number in range(6)], "no part was made twice"
    assert folders(own_store) == {path.name for path in (own_store.path / "derived").glob("test-*")}


def test_a_killed_process_leaves_whole_parts_and_the_next_goes_on(own_store: Store, tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    worker = context.Process(target=_derive, args=(own_store.path, log, 4))
    worker.start()
    worker.join(60)
    assert worker.exitcode == -signal.SIGKILL
    assert not list((own_store.path / "derived").glob("test-*"))
    assert log.read_text().split() == ["0", "1", "2", "3"]
    assert _derive(own_store.path, log) == list(range(6))
    assert log.read_text().split() == ["0", "1", "2", "3", "4", "5"]


def test_no_organs_have_no_captions() -> None:
    rules = CaptionRules(ORGANS, ABNORMALITIES)
    table = CaptionTable(join_captions([caption_part([], rules)], rules), rules)
    assert (len(table), table.taught.organs, table.pools().organs) == (0, {}, [])
