"""The short way of writing and reading a shard gives what zarr gives, voxel for voxel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec

from ctglip.store.shards import Volume, chunk_edge, write_volume

BLOSC = BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle")
SHAPES = [(26, 19, 15), (41, 80, 3), (97, 50, 49), (1, 1, 1), (8, 40, 120)]


def _volume(shape: tuple[int, ...], dtype: type = np.int16) -> np.ndarray:
    rng = np.random.default_rng(len(shape) + shape[0])
    volume = rng.integers(0, 200, shape).astype(dtype)
    volume[: shape[0] // 2] = 0
    return volume


def _write(path: Path, volume: np.ndarray) -> Path:
    write_volume(zarr.create_group(path, zarr_format=3), path, "image", volume)
    return path / "image"


def _stored_bytes(array: Path) -> int:
    return sum(file.stat().st_size for file in array.rglob("*") if file.is_file() and file.name != "zarr.json")


@pytest.mark.parametrize("dtype", [np.int16, np.uint8])
@pytest.mark.parametrize("shape", SHAPES)
def test_zarr_reads_what_is_written(tmp_path: Path, shape, dtype) -> None:
    volume = _volume(shape, dtype)
    array = zarr.open_array(_write(tmp_path / "s.zarr", volume), mode="r")
    assert array.shape == (1, *shape)
    np.testing.assert_array_equal(np.asarray(array[0]), volume)


def _write_by_zarr(tmp_path: Path, volume: np.ndarray, codecs: tuple) -> int:
    """Writes ``theirs`` beside ``ours.zarr``, and reads it; its bytes less those of ours."""
    ours = zarr.open_array(_write(tmp_path / "ours.zarr", volume), mode="r")
    theirs = zarr.create_array(
        tmp_path / "theirs", shape=ours.shape, dtype=ours.dtype, chunks=ours.chunks, shards=ours.shards,
        compressors=codecs, fill_value=0,
    )  # fmt: skip
    theirs[0] = volume
    np.testing.assert_array_equal(Volume(tmp_path / "theirs").read(), volume)
    return _stored_bytes(tmp_path / "theirs") - _stored_bytes(tmp_path / "ours.zarr" / "image")


@pytest.mark.parametrize("shape", SHAPES)
def test_what_zarr_writes_is_read(tmp_path: Path, shape) -> None:
    assert _write_by_zarr(tmp_path, _volume(shape), (BLOSC, Crc32cCodec())) == 0


def test_shards_whose_chunks_have_no_checksum_are_read(tmp_path: Path) -> None:
    assert _write_by_zarr(tmp_path, _volume((41, 80, 3)), (BLOSC,)) < 0


def test_no_changed_bit_is_read_as_another_value(tmp_path: Path) -> None:
    array = _write(tmp_path / "s.zarr", _volume((26, 19, 15)))
    shard = next(file for file in array.rglob("*") if file.is_file() and file.name != "zarr.json")
    whole = shard.read_bytes()
    for place in np.random.default_rng(0).choice(len(whole) * 8, 400, replace=False).tolist():
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        shard.write_bytes(changed)
        with pytest.raises(ValueError, match="has changed since it was written"):
            Volume(array).read()
        with pytest.raises(ValueError, match="checksum"):
            zarr.open_array(array, mode="r")[:]


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Volume, np.ndarray]:
    volume = _volume((97, 50, 49))
    return Volume(_write(tmp_path_factory.mktemp("shard") / "s.zarr", volume)), volume


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(-5, 105)] * 6))
def test_any_box_is_the_same_piece_of_the_volume(pair, box) -> None:
    reader, volume = pair
    x0, x1, y0, y1, z0, z1 = (max(edge, 0) for edge in box)
    np.testing.assert_array_equal(reader.read(box), volume[x0:x1, y0:y1, z0:z1])


def test_empty_chunks_take_no_room(tmp_path: Path) -> None:
    path = _write(tmp_path / "s.zarr", np.zeros((90, 90, 90), np.uint8))
    assert _stored_bytes(path) == 27 * 16 + 4
    assert not Volume(path).read().any()


def test_damage_is_noticed(tmp_path: Path) -> None:
    path = _write(tmp_path / "s.zarr", _volume((26, 19, 15)))
    shard = path / "c.0.0.0.0"
    data = shard.read_bytes()
    shard.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    with pytest.raises(ValueError, match="index"):
        Volume(path)
    shard.write_bytes(data[-10:])
    with pytest.raises(ValueError, match="cut off"):
        Volume(path)


def test_chunks_are_even_and_whole_bytes_of_bits() -> None:
    for size in range(1, 600):
        edge = chunk_edge(size)
        assert edge % 8 == 0
        assert 8 <= edge <= 40
        assert -(-size // edge) <= -(-size // 40)
