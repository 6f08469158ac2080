"""2,000 changed files of all kinds, the same on every machine: each is read, or refused by an error of the project."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.campaign import campaign
from tests.fuzz.mutation import mutated


@pytest.mark.slow
@pytest.mark.ci
def test_changed_files_are_read_or_refused(tmp_path: Path) -> None:
    found = campaign(600, tmp_path, inputs=2000)
    assert found["deaths"] == {}, f"the files are in {tmp_path / 'faults'}"
    assert found["faults"] == {}, f"the files are in {tmp_path / 'faults'}"
    assert found["kinds"] > 40
    assert min(found["read"], found["refused"]) > found["inputs"] / 20


def test_the_same_seed_makes_the_same_files() -> None:
    seeds = [b"a: 1\nb: [2, 3]\n", b"c" * 300]
    first, again, other = ([mutated(seeds, chance) for _ in range(50)] for chance in map(random.Random, (1, 1, 2)))
    assert first == again != other
    assert len(set(first)) > 40


def test_a_campaign_counts_what_goes_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong errors, time, and the end of the process are told apart and written down."""
    import time

    from ctglip.errors import ConfigError
    from tests.fuzz import campaign as module
    from tests.fuzz.targets import Target

    def read(path: Path) -> None:
        first = path.read_bytes()[:1]
        if first == b"e":
            raise ConfigError("refused")
        if first == b"k":
            raise KeyError("wrong")
        if first == b"t":
            time.sleep(9)

    monkeypatch.setattr(module, "SECONDS", 0.1)
    previous = module.signal.signal(module.signal.SIGALRM, module._too_long)
    try:
        target = Target("toy", ".txt", [b""], read)
        outcomes = {}
        for letter in (b"a", b"e", b"k", b"t"):
            (tmp_path / "input").write_bytes(letter)
            outcomes[letter] = module.read(target, tmp_path / "input")
    finally:
        module.signal.signal(module.signal.SIGALRM, previous)
    assert outcomes[b"a"] == ("read", "")
    assert outcomes[b"e"] == ("refused", "")
    assert outcomes[b"k"][0] == outcomes[b"t"][0] == "fault"
    assert "KeyError" in outcomes[b"k"][1]
    assert "TooLong" in outcomes[b"t"][1]
