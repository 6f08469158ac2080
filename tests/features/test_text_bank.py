from __future__ import annotations

import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from ctglip.errors import StoreError
from ctglip.features.text_bank import TextBank
from ctglip.files import value_hash


class CountingEncoder:
    """Each text to a vector of its own; counts what it is asked."""

    dim = 6

    def __init__(self, hash_: str = "abc") -> None:
        self.hash = hash_
        self.asked: list[str] = []

    def encode(self, texts, batch_size=64, progress=None):
        self.asked += texts
        rows = [[b / 255 for b in hashlib.md5(text.encode()).digest()[: self.dim]] for text in texts]
        return torch.tensor(rows, dtype=torch.float32).reshape(len(texts), self.dim)


TEXTS = ["liver", "a cyst", "Ödem", "", "liver"]


def test_vectors_are_the_encoders_own_and_each_text_is_encoded_once(tmp_path):
    encoder = CountingEncoder()
    bank = TextBank(tmp_path, encoder)
    ids = bank.ids(TEXTS)
    assert ids[0] == ids[4]
    assert len(bank) == 4
    torch.testing.assert_close(bank.vectors(ids), CountingEncoder().encode(TEXTS), atol=0, rtol=0)
    assert sorted(encoder.asked) == sorted(set(TEXTS))
    assert bank.vectors(ids.view(5, 1).expand(5, 2)).shape == (5, 2, 6)
    assert bank.vectors(ids[:0]).shape == (0, 6)


def test_only_what_is_new_is_embedded_when_a_bank_is_opened_again(tmp_path):
    TextBank(tmp_path, CountingEncoder()).ids(TEXTS)
    encoder = CountingEncoder()
    bank = TextBank(tmp_path, encoder)
    more = bank.ids(["new", "liver", "newer"])
    assert bank.ids(TEXTS)[0] == more[1]
    assert encoder.asked == ["new", "newer"]
    torch.testing.assert_close(bank.vectors(more), CountingEncoder().encode(["new", "liver", "newer"]))


def test_numbers_do_not_depend_on_who_embedded_what_before(tmp_path):
    TextBank(tmp_path / "a", CountingEncoder()).ids(["last", *reversed(TEXTS), "more"])
    found = [TextBank(tmp_path / name, CountingEncoder()).ids(TEXTS).tolist() for name in ("a", "b")]
    assert found == [[0, 1, 2, 3, 0]] * 2


def test_processes_that_need_the_same_texts_share_them(tmp_path, monkeypatch):
    """Eight ranks ask for the same 40 texts, five at a time, of a slow encoder: each text is embedded by one."""
    monkeypatch.setattr("ctglip.features.text_bank.CHUNK", 5)

    class Slow(CountingEncoder):
        def encode(self, texts, batch_size=64, progress=None):
            time.sleep(0.1)
            progress(len(texts), len(texts))
            return super().encode(texts)

    texts = [f"text {number}" for number in range(40)]
    encoders, reports = [Slow() for _ in range(8)], []
    with ThreadPoolExecutor(8) as pool:
        banks = [TextBank(tmp_path, encoder) for encoder in encoders]
        ids = list(pool.map(lambda bank: bank.ids(texts, lambda *at: reports.append(at)), banks))
    assert all(torch.equal(one, torch.arange(40)) for one in ids)
    assert sorted(text for encoder in encoders for text in encoder.asked) == sorted(texts)
    assert sum(bool(encoder.asked) for encoder in encoders) > 1
    assert {of for _, of in reports} == {40}
    for bank in banks:
        torch.testing.assert_close(bank.vectors(ids[0]), CountingEncoder().encode(texts))


def test_embedding_goes_on_where_it_was_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr("ctglip.features.text_bank.CHUNK", 2)

    class Tired(CountingEncoder):
        def encode(self, texts, batch_size=64, progress=None):
            if self.asked:
                raise KeyboardInterrupt
            return super().encode(texts)

    with pytest.raises(KeyboardInterrupt):
        TextBank(tmp_path, Tired()).ids(TEXTS)
    encoder = CountingEncoder()
    TextBank(tmp_path, encoder).ids(TEXTS)
    assert encoder.asked == ["Ödem", ""]


def test_another_encoder_has_another_bank(tmp_path):
    TextBank(tmp_path, CountingEncoder("one")).ids(TEXTS)
    assert len(TextBank(tmp_path, CountingEncoder("two"))) == 0
    assert len(TextBank(tmp_path, CountingEncoder("one"))) == 4


def test_vectors_stay_on_disk(tmp_path):
    bank = TextBank(tmp_path, CountingEncoder())
    bank.ids(TEXTS)
    assert isinstance(bank._parts[0].base, np.memmap)


def test_writers_at_the_same_time_agree(tmp_path):
    texts = [[f"text {i}" for i in range(start, start + 20)] for start in range(0, 80, 10)]
    banks = [TextBank(tmp_path, CountingEncoder()) for _ in texts]
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda pair: pair[0].ids(pair[1]), zip(banks, texts, strict=True)))
    fresh = TextBank(tmp_path, CountingEncoder())
    for bank, mine, some in zip(banks, ids, texts, strict=True):
        torch.testing.assert_close(bank.vectors(mine), CountingEncoder().encode(some))
        torch.testing.assert_close(fresh.vectors(fresh.ids(some)), bank.vectors(mine))
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_half_written_part_is_never_read(tmp_path):
    class Dying(CountingEncoder):
        def encode(self, texts, batch_size=64, progress=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TextBank(tmp_path, Dying()).ids(TEXTS)
    assert len(TextBank(tmp_path, CountingEncoder())) == 0


def test_a_changed_embedding_is_an_error(tmp_path):
    bank = TextBank(tmp_path, CountingEncoder())
    bank.ids(TEXTS)
    (vectors,) = tmp_path.rglob("vectors.npy")
    whole = vectors.read_bytes()
    for place in range(0, len(whole), 7):
        vectors.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(StoreError, match="have changed since they were written") as caught:
            TextBank(tmp_path, CountingEncoder())
        assert caught.value.code == "damaged_bank"
    vectors.unlink()  # as deleting leaves it that was cut off
    with pytest.raises(StoreError, match="or are not there"):
        TextBank(tmp_path, CountingEncoder())
    vectors.write_bytes(whole)
    assert len(TextBank(tmp_path, CountingEncoder())) == 4


def test_parts_that_were_made_before_checksums_are_read(tmp_path):
    bank = TextBank(tmp_path, CountingEncoder())
    ids = bank.ids(TEXTS)
    (texts,) = tmp_path.rglob("texts.json")
    texts.write_text(json.dumps(json.loads(texts.read_text())["texts"]))
    encoder = CountingEncoder()
    again = TextBank(tmp_path, encoder)
    torch.testing.assert_close(again.vectors(again.ids(TEXTS)), bank.vectors(ids), atol=0, rtol=0)
    assert encoder.asked == []


def test_unknown_indices_are_errors(tmp_path):
    bank = TextBank(tmp_path, CountingEncoder())
    bank.ids(TEXTS)
    for bad in (4, -1):
        with pytest.raises(IndexError, match=r"outside the bank's 0\.\.3"):
            bank.vectors(torch.tensor([0, bad]))


def test_texts_in_a_cache_are_encoded_once_for_all_banks(tmp_path):
    cache = tmp_path / "cache"
    first = CountingEncoder()
    before = TextBank(tmp_path / "a", first)
    one = before.vectors(before.ids(TEXTS, cache=cache))
    second = CountingEncoder()
    bank = TextBank(tmp_path / "b", second)
    torch.testing.assert_close(bank.vectors(bank.ids(TEXTS, cache=cache)), one, atol=0, rtol=0)
    assert second.asked == []
    (kept,) = cache.rglob("*.npz")
    whole = kept.read_bytes()
    middle = len(whole) // 2
    for harm in (b"", b"noise", whole[:-4], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]):
        kept.write_bytes(harm)
        other = CountingEncoder()
        again = TextBank(tmp_path / value_hash(harm.hex()), other)
        torch.testing.assert_close(again.vectors(again.ids(TEXTS, cache=cache)), one, atol=0, rtol=0)
        assert other.asked, "a broken file is made anew"
    for others, texts in ((CountingEncoder("xyz"), TEXTS), (CountingEncoder(), TEXTS[1:])):
        bank = TextBank(tmp_path / f"{others.hash}{len(texts)}", others)
        bank.ids(texts, cache=cache)
        assert others.asked, "another encoder, or other texts"
    (tmp_path / "file").write_text("in the way")
    TextBank(tmp_path / "c", CountingEncoder()).ids(TEXTS, cache=tmp_path / "file")
    assert not [path for path in cache.rglob("*") if ".tmp" in path.name]
