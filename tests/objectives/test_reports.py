"""Batches of reports: what belongs to what, before and after they are cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ctglip.data.collate import collate_reports
from ctglip.data.samples import ReportBatch
from ctglip.features.text_bank import TextBank
from ctglip.objectives.texts import Texts, positions
from ctglip.training.gradcache import micro_batches
from tests.objectives.toys import report_samples


@pytest.fixture(params=[2, 3])
def batch(bank: TextBank, request: pytest.FixtureRequest) -> ReportBatch:
    return collate_reports(report_samples(bank, request.param, 4), Texts(bank).collate)


def told(batch: ReportBatch, bank: TextBank) -> dict[tuple[int, int], set[str]]:
    """(row, region) -> sentences."""
    rows = batch.row[batch.region_study].tolist()
    return {
        (row, int(region)): set(bank.texts(batch.sentence_id[mine]))
        for row, region, mine in zip(rows, batch.region_id, batch.region_sentence, strict=True)
    }


def test_regions_have_their_sentences(batch: ReportBatch, bank: TextBank) -> None:
    assert told(batch, bank) == {
        (row, region): {f"finding {row}"} if region == 0 else {f"second {row}", "the same everywhere"}
        for row in range(3)
        for region in range(2)
    }
    assert bank.texts(batch.region_text) == [text for i in range(3) for text in (f"finding {i}", f"second {i}")]
    assert batch.region_study.tolist() == [0, 0, 1, 1, 2, 2]
    assert batch.sentence_study.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert (batch.region_sentences >= 0).sum(1).tolist() == [1, 2] * 3


def test_missing_sections_are_marked_and_texts_are_there_once(batch: ReportBatch, bank: TextBank) -> None:
    assert (batch.findings >= 0).tolist() == [True, False, True, True]
    assert (batch.impression >= 0).tolist() == [True, True, False, True]
    assert torch.equal(batch.pool_ids, batch.pool_ids.unique())
    for ids in (batch.report, batch.sentence_id, batch.region_text, batch.findings[batch.findings >= 0]):
        assert torch.equal(batch.pool_ids[positions(ids, batch.pool_ids)], ids)
        torch.testing.assert_close(batch.pool[positions(ids, batch.pool_ids)], bank.vectors(ids))


def test_pieces_hold_what_is_theirs(batch: ReportBatch, bank: TextBank) -> None:
    pieces = micro_batches(batch, 2)
    assert [len(piece) for piece in pieces] == [2, 2]
    assert torch.equal(torch.cat([piece.images for piece in pieces]), batch.images)
    assert torch.equal(torch.cat([piece.boxes for piece in pieces]), batch.boxes)
    joined = {key: said for piece in pieces for key, said in told(piece, bank).items()}
    assert joined == told(batch, bank)
    assert torch.cat([piece.row for piece in pieces]).tolist() == [0, 1, 2, 3]
    assert pieces[1].region_study.tolist() == [0, 0]
    for piece in pieces:
        assert len(piece.pool) == len(piece.pool_ids) < len(batch.pool_ids)
        assert torch.equal(piece.pool_ids, piece.all_ids()[piece.all_ids() >= 0].unique())


def test_reports_without_regions_are_welcome(bank: TextBank) -> None:
    batch = collate_reports(report_samples(bank, 2, 4)[-1:] * 2, Texts(bank).collate)
    assert batch.boxes.shape == (0, 2, 4)
    assert batch.region_sentence.shape == (0, 0)
    assert [len(piece.region_id) for piece in micro_batches(batch, 1)] == [0, 0]


def test_a_sentence_that_is_said_twice_counts_once(bank: TextBank) -> None:
    first = report_samples(bank, 2, 4)[0]
    again = replace(first, sentences={**first.sentences, 5: first.sentences[0]}, organ_sentences=((0, 5), (1, 4)))
    batch = collate_reports([again], Texts(bank).collate)
    assert batch.region_sentence.sum(1).tolist() == [1, 2]
    assert batch.tags.tolist() == [[1, 0, -1, 0]]
