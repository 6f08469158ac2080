"""What untrusted files may ask for, and that whatever goes wrong behind the gate is an error of the project."""

from __future__ import annotations

import gzip
import time
import zlib
from pathlib import Path

import pytest

from ctglip.errors import ConfigError, CTGLIPError, ScanError
from ctglip.files import parse_yaml, read_json
from ctglip.gate import reads
from ctglip.limits import check_grid, check_voxels, unzipped


class PanicException(BaseException):
    """As libraries in Rust raise it."""


@pytest.mark.parametrize(
    "problem",
    [ValueError("JANE DOE"), KeyError("JANE DOE"), RecursionError(), PanicException("JANE DOE"), OSError(5, "x")],
)
def test_whatever_a_library_raises_is_ours(problem: BaseException, tmp_path: Path) -> None:
    @reads(ScanError, "scan_damaged", "Copy it again.")
    def read(path: Path) -> None:
        raise problem

    with pytest.raises(ScanError, match=r"scan\.nii cannot be read") as caught:
        read(tmp_path / "scan.nii")
    assert caught.value.code == "scan_damaged"
    assert caught.value.__cause__ is problem
    assert "JANE" not in str(caught.value)


@pytest.mark.parametrize("problem", [MemoryError(), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_is_no_fault_of_the_input_stays_what_it_is(problem: BaseException) -> None:
    @reads(ScanError, "scan_damaged")
    def read(path: Path) -> None:
        raise problem

    with pytest.raises(type(problem)):
        read(Path("scan.nii"))


def test_an_error_is_one_line_whatever_it_quotes() -> None:
    error = CTGLIPError("There is no column 'a\nb'\r\n.", fix="Add it.")
    assert str(error) == "There is no column 'a b' . Add it."


def test_errors_of_ours_pass() -> None:
    @reads(ScanError, "scan_damaged")
    def read(path: Path) -> None:
        raise ConfigError("x", code="own")

    with pytest.raises(ConfigError, match="x") as caught:
        read(Path("a"))
    assert caught.value.code == "own"


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{new}: &{new}\n  <<: [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "- " * 50_000, "{a: " * 3000, "\n".join(" " * n + "a:" for n in range(2000)), LAUGHS, MERGES,
     "a: &a [*a]", "!!timestamp 99", "!!int x", "!!float x", "!!timestamp 2001-99-99", "? [a]\n: 1", "\0"],
)  # fmt: skip
def test_yaml_that_asks_for_too_much(text: str) -> None:
    start = time.monotonic()
    with pytest.raises(ConfigError):
        parse_yaml(text)
    assert time.monotonic() - start < 5


def test_json_that_asks_for_too_much(tmp_path: Path) -> None:
    for text in ("[" * 100_000, "[" * 900 + "]" * 900, '{"a":' * 500 + "1" + "}" * 500, "1" * 5000, "\ud800"):
        (tmp_path / "a.json").write_text(text, errors="surrogatepass")
        with pytest.raises(CTGLIPError):
            read_json(tmp_path / "a.json")


def test_gzip_bombs_are_refused_before_they_unfold() -> None:
    bomb = gzip.compress(bytes(1 << 24))
    assert unzipped(bomb, 1 << 24, "It", CTGLIPError) == bytes(1 << 24)
    assert unzipped(gzip.compress(b"a") + gzip.compress(b"b") + b"\0\0", 9, "It", CTGLIPError) == b"ab"
    with pytest.raises(CTGLIPError) as caught:
        unzipped(bomb, (1 << 24) - 1, "It", CTGLIPError)
    assert caught.value.code == "too_large"
    with pytest.raises((EOFError, zlib.error)):
        unzipped(bomb[:-9], 1 << 25, "It", CTGLIPError)


def test_grids_beyond_their_source_are_refused() -> None:
    check_voxels((512, 512, 3000), "It", ScanError)
    check_grid((500, 500, 500), (100, 100, 100), "It", ScanError)
    check_grid((256, 256, 256), (2, 2, 2), "It", ScanError)
    for shape, source in (((1200, 1200, 1200), (60, 60, 60)), ((2000, 1000, 1000), (1999, 1000, 1000))):
        with pytest.raises(ScanError) as caught:
            check_grid(shape, source, "It", ScanError)
        assert caught.value.code == "too_large"
