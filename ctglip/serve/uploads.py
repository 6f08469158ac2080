"""What comes in: files that are streamed to disk under names of our own, archives that are opened with suspicion.

No file keeps its name: names of files may be those of patients. A mask's file keeps the name of the organ that it
stands for, where the dictionary knows it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import stat
import zipfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ctglip.ct.dicom_headers import Series, all_series
from ctglip.errors import CTGLIPError, ScanError
from ctglip.files import atomic_path, files_below, free_bytes, is_dicom
from ctglip.types import ModalityName
from ctglip.vocabulary.organs import load_organs

FileRole = Literal["scan", "masks"]
VOLUMES = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".mha")
PICTURES = (".png", ".jpg", ".jpeg")
_KEPT = (*VOLUMES, *PICTURES, ".zip", ".dcm")
_BLOCK = 1 << 20
_FEW_SLICES = 2


@dataclass(frozen=True)
class UploadLimits:
    """What one upload, and all of them, may take.

    Attributes:
        scan_bytes: of all files of one upload.
        files: of one upload, archives opened.
        expanded_bytes: of what archives hold.
        growth: how many times larger than an archive its content may be.
        queued: uploads that may wait at a time.
        kept: uploads that may lie in the folder at a time.
        free_bytes: that stay free on the disk.
        silence_s: seconds after which an upload that sends nothing is given up.
    """

    scan_bytes: int = 8 << 30
    files: int = 20_000
    expanded_bytes: int = 16 << 30
    growth: int = 200
    queued: int = 100
    kept: int = 1000
    free_bytes: int = 1 << 30
    silence_s: float = 60.0


def too_large(what: str, fix: str = "Give one series without other files.") -> CTGLIPError:
    """The error of an upload beyond a limit."""
    return CTGLIPError(what, code="upload_too_large", fix=fix)


def stored_name(name: str, number: int, role: FileRole) -> str:
    """What an uploaded file is called here: its number and its suffix, or the organ whose mask it is."""
    lower = name.lower()
    suffix = next((one for one in sorted(_KEPT, key=len, reverse=True) if lower.endswith(one)), "")
    if role == "masks" and suffix in VOLUMES:
        stem = name.replace("\\", "/").rpartition("/")[2][: -len(suffix)]
        organ = load_organs().from_source(stem)
        if organ is not None:
            return f"{organ.name}{suffix}"
    return f"{number:05d}{suffix}"


class Intake:
    """Writes files as they come, and counts what each upload has.

    Args:
        limits: of uploads.
    """

    def __init__(self, limits: UploadLimits) -> None:
        self.limits = limits
        self._tallies: dict[Path, _UploadTally] = {}

    async def receive(
        self, stream: AsyncIterator[bytes], folder: Path, name: str, role: FileRole, replace: bool = False
    ) -> int:
        """Write one file; nothing is left of one that is too large or cut off.

        Args:
            stream: its bytes.
            folder: of all files of the upload's role.
            name: as the sender calls it.
            replace: all files of the role that came before it go.

        Returns:
            Its size in bytes.

        Raises:
            CTGLIPError: ``upload_too_large``, ``disk_full``, ``upload_stopped``.
        """
        if replace:
            shutil.rmtree(folder, ignore_errors=True)
            self.forget(folder.parent)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tally = self._tallies.get(folder.parent)
        if tally is None:
            tally = self._tallies[folder.parent] = _UploadTally.of(folder.parent)
        tally.files += 1
        if tally.files > self.limits.files:
            raise too_large(f"An upload may have {self.limits.files} files.")
        target = folder / stored_name(name, tally.files, role)
        partial, size = target.with_name(f".{tally.files}.part"), 0
        try:
            with partial.open("wb") as file:
                while block := await _next(stream, self.limits.silence_s):
                    size += len(block)
                    tally.bytes += len(block)
                    self._check(tally, folder, len(block))
                    file.write(block)
            partial.rename(target)
        except BaseException:
            tally.bytes -= size
            raise
        finally:
            partial.unlink(missing_ok=True)
        return size

    def forget(self, folder: Path) -> None:
        """Count what an upload has anew when more of it comes."""
        self._tallies.pop(folder, None)

    def _check(self, tally: _UploadTally, folder: Path, block: int) -> None:
        if tally.bytes > self.limits.scan_bytes:
            raise too_large(f"An upload may have {self.limits.scan_bytes >> 20} MiB.")
        check_room(folder, block, self.limits)


@dataclass
class _UploadTally:
    """What an upload has so far; ``files`` is also the last number given to one."""

    files: int = 0
    bytes: int = 0

    @classmethod
    def of(cls, folder: Path) -> _UploadTally:
        entries = list(folder.rglob("*"))
        sizes = [file.stat().st_size for file in entries if file.is_file()]
        numbers = [int(stem) for entry in entries if (stem := entry.name.partition(".")[0]).isdecimal()]
        return cls(max([len(sizes), *numbers]), sum(sizes))


def check_room(folder: Path, size: int, limits: UploadLimits) -> None:
    """The disk has room for some more bytes.

    Raises:
        CTGLIPError: code ``disk_full``.
    """
    if free_bytes(folder) - size < limits.free_bytes:
        raise CTGLIPError("The disk is full.", code="disk_full", fix="Delete scans that are done with.")


async def _next(stream: AsyncIterator[bytes], silence_s: float) -> bytes:
    """The next bytes; none at the end."""
    try:
        while True:
            block = await asyncio.wait_for(anext(stream), silence_s)
            if block:
                return block
    except StopAsyncIteration:
        return b""
    except TimeoutError:
        raise CTGLIPError("The upload stopped.", code="upload_stopped", fix="Send the file again.") from None


def expand(folder: Path, role: FileRole, limits: UploadLimits) -> None:
    """Open the archives of an upload: a folder of numbered files in place of each; no path in them counts.

    An archive is opened whole or not at all, whenever the process ends.

    Raises:
        CTGLIPError: ``bad_archive``: damaged, encrypted, or with links or paths that lead elsewhere;
            ``upload_too_large``: more files or bytes than allowed, or a bomb.
    """
    taken = _UploadTally()
    for archive in sorted(folder.glob("*.zip")):
        target = archive.with_suffix("")
        for left in folder.glob(f".{target.name}.*.tmp"):
            shutil.rmtree(left, ignore_errors=True)
        if not target.is_dir():
            try:
                with atomic_path(target) as temporary, zipfile.ZipFile(archive) as opened:
                    temporary.mkdir(mode=0o700)
                    _check_members(opened, archive.stat().st_size, limits, taken)
                    _open_archive(opened, temporary, role, limits)
            except CTGLIPError:
                raise
            except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
                raise _bad_archive(f"The archive cannot be opened ({type(error).__name__}).") from error
        archive.unlink()


def _open_archive(opened: zipfile.ZipFile, target: Path, role: FileRole, limits: UploadLimits) -> None:
    members = [one for one in opened.infolist() if not one.is_dir() and not _is_rubbish(one.filename)]
    for number, member in enumerate(members, start=1):
        _extract(opened, member, target / stored_name(member.filename, number, role), limits)


def _bad_archive(what: str) -> CTGLIPError:
    return CTGLIPError(what, code="bad_archive", fix="Pack the folder of one series again, or drop the folder itself.")


def _is_rubbish(name: str) -> bool:
    """Whether a file of an archive is what a desktop left there, or another archive."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return last.startswith(".") or "__MACOSX/" in name or last == "Thumbs.db" or last.lower().endswith(".zip")


def _check_members(opened: zipfile.ZipFile, packed: int, limits: UploadLimits, taken: _UploadTally) -> None:
    """An archive may be opened beside those that were; it is added to what they have taken."""
    members = opened.infolist()
    taken.files += len(members)
    if taken.files > limits.files:
        raise too_large(f"The archives hold {taken.files} files, at most {limits.files} are taken.")
    for member in members:
        parts = member.filename.replace("\\", "/").split("/")
        if ".." in parts or member.filename.startswith(("/", "\\")) or ":" in parts[0]:
            raise _bad_archive("The archive holds paths that lead out of it.")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise _bad_archive("The archive holds links.")
        if member.flag_bits & 1:
            raise _bad_archive("The archive is encrypted.")
    expanded = sum(member.file_size for member in members)
    taken.bytes += expanded
    if taken.bytes > limits.expanded_bytes or expanded > max(limits.growth * packed, _BLOCK):
        raise too_large(f"The archive would grow from {packed} to {expanded} bytes.", "Check what it is.")


def _extract(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, limits: UploadLimits) -> None:
    """Write one file, never more than its header says."""
    written = 0
    with opened.open(member) as source, target.open("wb") as file:
        while block := source.read(_BLOCK):
            written += len(block)
            if written > member.file_size:
                raise too_large("The archive holds more than it says.", "Check what it is.")
            check_room(target, len(block), limits)
            file.write(block)


def image_path(folder: Path, modality: ModalityName) -> Path:
    """The image among an upload's files: the one volume or picture, or the folder of DICOM files.

    Raises:
        ScanError: ``no_file``: nothing was uploaded; ``several_files``: several images that are no series.
    """
    files = _whole_files(folder)
    if not files:
        raise ScanError("No scan was uploaded.", code="no_file", fix="Drop a file or a folder.")
    named = [file for file in files if file.name.lower().endswith((*VOLUMES, *PICTURES))]
    if len(named) > 1 or (named and any(is_dicom(file) for file in files)):
        raise ScanError(
            f"{len(files)} files were uploaded, expected one volume, one radiograph or one DICOM folder.",
            code="several_files",
            fix="Drop one scan at a time; masks have a place of their own.",
        )
    if named:
        return named[0]
    return files[0] if modality == "cxr" and len(files) == 1 else folder


def masks_path(folder: Path) -> Path | None:
    """The masks among an upload's files: one file, or the folder of one for each organ; None without any."""
    files = _whole_files(folder)
    if len(files) <= 1:
        return files[0] if files else None
    parents = {file.parent for file in files}
    return parents.pop() if len(parents) == 1 else folder


def _whole_files(folder: Path) -> list[Path]:
    """The files of an upload that came whole."""
    files = files_below(folder) if folder.is_dir() else []
    return [file for file in files if not file.name.startswith(".")]


def usable_series(folder: Path) -> list[Series]:
    """The CT series of a folder of DICOM files that make a volume, the largest first.

    Raises:
        ScanError: as ``all_series``.
    """
    found = [one for one in all_series(files_below(folder))[0] if len(one.slices) >= _FEW_SLICES]
    return sorted(found, key=lambda one: (-len(one.slices), one.number or 0))


def series_row(series: Series) -> dict[str, object]:
    """What a table of series says of one: numbers alone, no text of a header."""
    first = series.slices[0]
    normal = np.cross(first.axes[:3], first.axes[3:])
    heights = sorted({round(float(one.position @ normal), 2) for one in series.slices})
    steps = sorted(b - a for a, b in itertools.pairwise(heights))
    return {
        "number": series.number,
        "slices": len(series.slices),
        "rows": first.shape[0],
        "columns": first.shape[1],
        "pixel_mm": round(float(first.pixel_mm[0]), 3),
        "slice_mm": round(steps[len(steps) // 2], 3) if steps else None,
        "height_mm": round(heights[-1] - heights[0], 1),
    }


def set_aside(series: Series, folder: Path) -> Path:
    """A folder with the files of one series alone (hard links)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    for number, path in enumerate(dict.fromkeys(one.path for one in series.slices), start=1):
        os.link(path, folder / f"{number:05d}{path.suffix}")  # two archives may each have a 00001.dcm
    return folder
