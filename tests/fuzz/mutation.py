"""Small changes of sound files: bits, bytes, lengths, numbers and words, by a seeded generator."""

from __future__ import annotations

import random
import re

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
NUMBERS = (
    b"0", b"-1", b"1", b"2", b"255", b"256", b"32767", b"65536", b"2147483647", b"-2147483648", b"4294967295",
    b"9223372036854775807", b"99999999999999999999", b"1e400", b"-1e-400", b"nan", b"inf", b"-inf", b"1e9", b"0.0",
    b"1e-12", b"true", b"null", b"", b'""', b"[]", b"{}",
)  # fmt: skip
WORDS = (
    b"\0", b"\n", b"\r\n", b"\t", b",", b";", b":", b"=", b"#", b'"', b"'", b"[", b"]", b"{", b"}", b"%s", b"%n", b"..",
    b"/", b"../", b"&a", b"*a", b"!!int ", b"- ", b"|\n", b"\xff", b"\xc3\xa4", b"\xed\xa0\x80", b"\xe2\x80\xae",
    b" " * 40,
    b"NaN", b"study_id", b"none", b"null", b"<b>", b"=1+1", b"\x1f\x8b", b"PK\x03\x04", b"PAR1", b"DICM",
)  # fmt: skip
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF)


def mutated(seeds: list[bytes], chance: random.Random) -> bytes:
    """One of the seeds, changed one to a few times; now and then as it is."""
    data = bytearray(chance.choice(seeds))
    if chance.random() < 0.01:
        return bytes(data)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        chance.choice(_CHANGES)(data, seeds, chance)
    return bytes(data)


def _place(data: bytearray, chance: random.Random) -> int:
    """Most often near the beginning, where headers are."""
    reach = len(data) if chance.random() < 0.5 else min(len(data), 600)
    return chance.randrange(reach) if reach else 0


def _flip(data: bytearray, seeds: list[bytes], chance: random.Random) -> None:
    if data:
        data[_place(data, chance)] ^= 1 << chance.randrange(8)


def _byte(data: bytearray, seeds: list[bytes], chance: random.Random) -> None:
    if data:
        data[_place(data, chance)] = chance.choice((*EXTREMES, chance.randrange(256)))


def _word(data: bytearray, seeds: list[bytes], chance: random.Random) -> None:
    size = chance.choice((2, 4, 8))
    value = chance.choice((0, 1, (1 << (8 * size - 1)) - 1, 1 << (8 * size - 1), (1 << 8 * size) - 1, 0x7FC00000))
    at = _place(data, chance)
    data[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, chance.choice(("little", "big")))


def _cut(data: bytearray, seeds: list[bytes], chance: random.Random) -> None:
    del data[_place(data, chance) :]


def _remove(data: bytearray, seeds: list[bytes], chance: random.Random) -> None:
    at = _place(data, chance)
    del data[at : at + chance.choice((1, 2, 4, 16, 100))]


def _repeat(data: bytearray, seeds: list[bytes], chance: random.Random) -> None:
    at = _place(data, chance)
    piece = data[at : at + chance.choice((1, 4, 30, 200))]
    data[at:at] = piece * chance.choice((1, 2, 10, 100))


def _insert(data: bytearray, seeds: list[bytes], chance: random.Random) -> None:
    at = _place(data, chance)
    data[at:at] = chance.choice(WORDS)


def _number(data: bytearray, seeds: list[bytes], chance: random.Random) -> None:
    found = list(_NUMBER.finditer(data[:4000]))
    if found:
        start, end = chance.choice(found).span()
        data[start:end] = chance.choice(NUMBERS)


def _swap(data: bytearray, seeds: list[bytes], chance: random.Random) -> None:
    lines = bytes(data[:8000]).split(b"\n")
    if len(lines) > 2:
        a, b = chance.sample(range(len(lines)), 2)
        lines[a], lines[b] = lines[b], lines[a]
        data[:8000] = b"\n".join(lines)


def _splice(data: bytearray, seeds: list[bytes], chance: random.Random) -> None:
    other = chance.choice(seeds)
    data[_place(data, chance) :] = other[chance.randrange(len(other) + 1) :]


_CHANGES = (_flip, _flip, _byte, _byte, _word, _word, _cut, _remove, _repeat, _insert, _number, _number, _swap, _splice)
