"""Embeddings of texts under a frozen encoder: computed once, kept on disk, shared by all who open the folder.

A bank is a folder of parts (``part-00000/texts.json`` and ``vectors.npy``); a part is written whole and renamed into
place, and never changes. ``texts.json`` holds the texts and the CRC-32C of the vectors' file, which is checked when a
part is opened; parts that were made before have the texts alone. New texts are embedded a chunk at a time: what is
there stays when the work is cut off, and processes that need the same texts share the chunks. An index is this
process's own: texts are numbered as they are asked for, whoever embedded them, and when.
"""

from __future__ import annotations

import contextlib
import json
import uuid
import zipfile
from collections.abc import Sequence
from pathlib import Path

import google_crc32c
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ctglip.data.derived import claimed
from ctglip.errors import StoreError
from ctglip.files import atomic_path, flush, read_json, remove, value_hash
from ctglip.models.text import TextEncoder
from ctglip.types import Progress

CHUNK = 1024
"""Texts that are embedded at a time."""


class TextBank:
    """A memory-mapped table of text embeddings in ``folder/<encoder hash>/``. Safe for several processes.

    Args:
        folder: where banks live; one folder inside it for each encoder.
        encoder: the frozen text encoder.

    Raises:
        StoreError: ``damaged_bank``: embeddings have changed on the disk, or are not there.
    """

    def __init__(self, folder: Path, encoder: TextEncoder) -> None:
        self.folder = folder / encoder.hash
        self.encoder = encoder
        self._rows: dict[str, int] = {}
        self._ids: dict[str, int] = {}
        self._texts: list[str] = []
        self._row_of_id = np.zeros(0, dtype=np.int64)
        self._parts: list[np.ndarray] = []
        self._starts: list[int] = [0]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._read_new_parts()

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.encoder.dim

    def __len__(self) -> int:
        """Texts that are embedded."""
        return self._starts[-1]

    def ids(
        self, texts: Sequence[str], progress: Progress | None = None, cache: Path | None = None
    ) -> Int[Tensor, " n"]:
        """The index of each text, in the order in which they are first asked for; texts not yet there are added.

        Args:
            texts: any texts, repeats allowed.
            progress: called with (done, of) while new texts are encoded.
            cache: folder in which the embeddings of just these texts are kept for other banks, by the encoder's hash
                and all the texts, so that they are to the last bit what encoding them gives. Not for patients' texts.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._ids]
        self._embed([text for text in new if text not in self._rows], progress, cache)
        self._ids.update(zip(new, range(len(self._texts), len(self._texts) + len(new)), strict=True))
        self._texts += new
        self._row_of_id = np.append(self._row_of_id, [self._rows[text] for text in new]).astype(np.int64)
        return torch.tensor([self._ids[text] for text in texts], dtype=torch.long)

    def vectors(self, ids: Int[Tensor, "*n"]) -> Float[Tensor, "*n d"]:
        """The raw embeddings (float32, CPU) of some indices.

        Raises:
            IndexError: an index that nothing has.
        """
        flat_ids, count = ids.reshape(-1).cpu().numpy(), len(self._row_of_id)
        if len(flat_ids) and not 0 <= flat_ids.min() <= flat_ids.max() < count:
            raise IndexError(f"Text ids {flat_ids.min()}..{flat_ids.max()} are outside the bank's 0..{count - 1}.")
        flat_ids = self._row_of_id[flat_ids]
        found = np.empty((len(flat_ids), self.dim), dtype=np.float32)
        which = np.searchsorted(self._starts, flat_ids, side="right") - 1
        for part in set(which.tolist()):
            rows = which == part
            found[rows] = self._parts[part][flat_ids[rows] - self._starts[part]]
        return torch.from_numpy(found).reshape(*ids.shape, self.dim)

    def texts(self, ids: Int[Tensor, " n"]) -> list[str]:
        """The texts of some indices."""
        return [self._texts[int(number)] for number in ids]

    def _embed(self, texts: list[str], progress: Progress | None, cache: Path | None) -> None:
        """Add texts that are not there: those in a cache at once, others by chunks, first those that nobody is at."""
        size, done = len(texts) if cache else CHUNK, 0
        chunks = [texts[at : at + size] for at in range(0, len(texts), size or 1)]

        def report(several: int, _: int) -> None:
            if progress is not None:
                progress(done + several, len(texts))

        for wait in (False, True):
            others = []
            for chunk in chunks:
                with claimed(self.folder / ".claims" / value_hash(chunk), wait) as held:
                    if held:
                        self._add(chunk, report, cache)
                if held:
                    done += len(chunk)
                else:
                    others.append(chunk)
            chunks = others

    def _add(self, texts: list[str], progress: Progress, cache: Path | None) -> None:
        """Encode those that are still missing, and commit them as one part, the next that no other process commits."""
        self._read_new_parts()
        texts = [text for text in texts if text not in self._rows]
        if not texts:
            return
        vectors = self._encoded(texts, progress, cache)
        temporary = self.folder / f".{uuid.uuid4().hex[:12]}.tmp"
        temporary.mkdir()
        try:
            np.save(temporary / "vectors.npy", vectors)
            about = {"texts": texts, "crc32c": _crc32c(temporary / "vectors.npy")}
            (temporary / "texts.json").write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")
            flush(temporary)
            while temporary.exists():
                target = self._path(len(self._parts))
                try:
                    temporary.rename(target)
                except OSError:
                    if not target.exists():
                        raise
                self._read_new_parts()
        finally:
            remove(temporary)

    def _encoded(self, texts: list[str], progress: Progress, cache: Path | None) -> np.ndarray:
        """Embeddings from the cache, or encoded and put there if the folder can be written."""
        if cache is None:
            return self.encoder.encode(texts, progress=progress).numpy()
        file = cache / self.encoder.hash / f"{value_hash(texts, 32)}.npz"  # zip files check what they hold
        with contextlib.suppress(OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            found = np.load(file, allow_pickle=False)["vectors"]
            if found.shape == (len(texts), self.dim) and found.dtype == np.float32:
                return found
        vectors = self.encoder.encode(texts, progress=progress).numpy()
        with contextlib.suppress(OSError), atomic_path(file) as temporary, temporary.open("wb") as stream:
            np.savez(stream, vectors=vectors)
        return vectors

    def _read_new_parts(self) -> None:
        while (path := self._path(len(self._parts))).exists():
            about = read_json(path / "texts.json")
            texts = about["texts"] if isinstance(about, dict) else about
            if isinstance(about, dict) and about["crc32c"] != _crc32c(path / "vectors.npy"):
                raise StoreError(
                    f"The embeddings in {path} have changed since they were written, or are not there.",
                    code="damaged_bank",
                    fix=f"Remove {self.folder}; its texts are embedded again.",
                )
            mapped = np.load(path / "vectors.npy", mmap_mode="r")
            self._parts.append(np.asarray(mapped))  # still on disk, but indexed as fast as any array
            for position, text in enumerate(texts, start=self._starts[-1]):
                self._rows.setdefault(text, position)
            self._starts.append(self._starts[-1] + len(texts))

    def _path(self, part: int) -> Path:
        return self.folder / f"part-{part:05d}"


def _crc32c(file: Path) -> int | None:
    """The CRC-32C of a file; None where it is not there."""
    if not file.exists():
        return None
    checksum = google_crc32c.Checksum()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            checksum.update(block)
    return int.from_bytes(checksum.digest(), "big")
