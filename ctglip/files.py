"""Files that are there whole or not at all, data from YAML and JSON, checksums, ids that stay in their folder,
headers that stay out of logs."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import math
import os
import re
import shutil
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ctglip.errors import ConfigError, CTGLIPError, OutputError
from ctglip.limits import MOST_TEXT_BYTES, check_nesting, check_yaml_nesting, read_at_most

LOCK = ".lock"
DICOM_SUFFIXES = (".dcm", ".dicom")
_FIRST_ELEMENT = re.compile(rb"[\x02\x08]\0.\0(?:[A-Z]{2}|..\0\0)", re.DOTALL)
"""Group 2 or 8, then a value's type, or its length where types are not written."""
_SAID = 400
_FOLDERS = re.compile(r"(?<![\w.<:/])(?:/[^/\s'\"<>]+)+/(?=[^/\s])")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check_id(value: str) -> str:
    """The id itself if it can safely name a file, else an error.

    Raises:
        CTGLIPError: code ``bad_id``: empty, over 128 characters, or with a character outside ``A-Z a-z 0-9 . _ -``.
    """
    if not _ID.fullmatch(value) or ".." in value:
        raise CTGLIPError(
            f"study_id {value!r} cannot name a file: it must be 1 to 128 letters, digits, '.', '_' or '-', "
            "start with a letter or digit and hold no '..'.",
            code="bad_id",
            fix="Rename it in the cohort table.",
        )
    return value


@contextmanager
def atomic_path(target: Path, folder: Path | None = None) -> Iterator[Path]:
    """A temporary path beside ``target``, renamed onto it when the block ends well and removed when it does not.

    Args:
        folder: where the temporary path is instead, on the same disk.

    Works for files and folders; an existing target is replaced. What a name stands for is on the disk before the name
    is, so that a power cut leaves the old, or the new, and no empty file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = (folder or target.parent) / f".{target.name}.{uuid.uuid4().hex[:12]}.tmp"
    try:
        yield temporary
        flush(temporary)
        if target.is_dir() or (temporary.is_dir() and target.is_file()):
            _replace_folder(temporary, target)
        else:
            temporary.replace(target)
        _flush_one(target.parent)
    finally:
        remove(temporary)


_CANNOT_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EROFS, errno.EACCES, errno.EPERM)
"""What file systems and rights answer where flushing is not theirs to give."""


def flush(path: Path) -> None:
    """Wait until a file, or a folder with all that is below it, is on the disk; links are not followed.

    A file system that cannot promise it (some network drives) is written without.

    Raises:
        OSError: the disk is full or broken.
    """
    for folder, _, names in os.walk(path, topdown=False):
        for name in names:
            _flush_one(Path(folder, name))
        _flush_one(Path(folder))
    if path.is_file():
        _flush_one(path)


def _flush_one(path: Path) -> None:
    if path.is_symlink():
        return
    try:
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise


def _replace_folder(temporary: Path, target: Path) -> None:
    """Swap a folder, or a file, for a folder; a reader sees the old one or the new one, or for an instant none."""
    old = target.parent / f".{target.name}.{uuid.uuid4().hex[:12]}.old.tmp"
    target.rename(old)
    try:
        temporary.rename(target)
    except OSError:
        old.rename(target)
        raise
    remove(old)


def remove(path: Path) -> None:
    """Remove a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a folder for writing; the operating system takes the lock back when its holder dies.

    Raises:
        OutputError: ``in_use`` when another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(
                f"Another process is writing to {folder}.", code="in_use", fix="Wait until it has finished."
            ) from error
        yield


def write_text(path: Path, text: str) -> None:
    """Write a text file by rename."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with a trailing newline, by rename."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def plain_json(value: Any, indent: int | None = None) -> str:
    """JSON text in which numbers that are not finite are null: ``NaN`` is no JSON."""
    return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """Read a JSON file; the error names the file."""
    try:
        found = json.loads(read_at_most(path, MOST_TEXT_BYTES, CTGLIPError).decode("utf-8"))
        check_nesting(found, str(path), CTGLIPError)
    except CTGLIPError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise CTGLIPError(f"{path} cannot be read as JSON: {error}.", code="bad_json") from error
    return found


_Base: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's parser where it is built in


class _Loader(_Base):
    """YAML 1.2's core rules where they matter here: only true/false are booleans, a leading zero makes a string."""


_REPLACED = {f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float", "timestamp", "merge", "value")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_NUMBER = r"(?:0|[1-9][0-9]*)"
for _name, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", rf"^[-+]?{_NUMBER}$", "-+0123456789"),
    ("float", rf"^[-+]?(?:{_NUMBER}?\.[0-9]+|{_NUMBER}\.?)(?:[eE][-+]?[0-9]+)?$", "-+0123456789."),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(_pattern), list(_first))


def parse_yaml(text: str, where: str = "text") -> Any:
    """Parse YAML as plain data; ``<<`` is a key like any other.

    Raises:
        ConfigError: with the file and the line; ``too_deep`` where it is nested without end.
    """
    try:
        check_yaml_nesting(text, _Loader, where, ConfigError)
        found = yaml.load(text, Loader=_Loader)  # noqa: S506  (derived from SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}.") from error
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
        if isinstance(error, CTGLIPError):
            raise
        raise ConfigError(f"{where} holds a value that YAML cannot: {' '.join(str(error).split())}.") from error
    check_nesting(found, where, ConfigError)
    return found


def read_yaml(path: Path) -> Any:
    """Parse one YAML file as plain data, or raise a ConfigError that names it."""
    try:
        return parse_yaml(read_at_most(path, MOST_TEXT_BYTES, ConfigError).decode("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error


def file_checksum(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, or of all files of a folder with their names, in name order."""
    digest = hashlib.sha256()
    for file in files_below(path):
        if file != path:
            digest.update(str(file.relative_to(path)).encode("utf-8", "surrogateescape"))
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def files_below(path: Path) -> list[Path]:
    """All files of a folder in name order, links to files and folders followed (each folder once); a file is itself."""
    if not path.is_dir():
        return [path]
    found: list[Path] = []
    visited: set[str] = set()
    for folder, inner, names in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            inner.clear()
            continue
        visited.add(real)
        found += [file for name in names if (file := Path(folder, name)).is_file()]
    return sorted(found)


def value_hash(value: Any, length: int = 16) -> str:
    """Hex hash of a JSON-able value, the same for equal values whatever the order of their keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:length]


def is_dicom(path: Path) -> bool:
    """Whether a file can be read and starts like DICOM: 128 bytes and ``DICM``, or, without these, an element."""
    try:
        with path.open("rb") as stream:
            start = stream.read(132)
    except OSError:
        return False
    return start[128:] == b"DICM" or bool(_FIRST_ELEMENT.match(start))


def private_name(path: Path) -> str:
    """What answers and pages call an input: its name, but for DICOM: those names may hold UIDs and patients."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    if any(is_dicom(file) or file.suffix.lower() in DICOM_SUFFIXES for file in files):
        return "DICOM series" if path.is_dir() else "DICOM file"
    return path.name


def one_line(error: BaseException) -> str:
    """What an error says, on one line and without its last full stop; its kind where it says nothing."""
    return " ".join(str(error).split())[:_SAID].rstrip(".") or type(error).__name__


def without_folders(text: str) -> str:
    """Text whose paths are cut to their last name, for pages that go further than the machine they are made on."""
    return _FOLDERS.sub("", text)


def encodable(text: str) -> str:
    """Text that UTF-8 can hold: bytes of file names that are none are written in figures."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def user_cache() -> Path:
    """Where things are kept between runs: ``CTGLIP_CACHE``, else ``ctglip`` in the user's folder of caches."""
    if cache := os.environ.get("CTGLIP_CACHE"):
        return Path(cache)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ctglip"


def free_bytes(path: Path) -> int:
    """Bytes free on the disk that holds ``path`` or its nearest existing parent."""
    while not path.exists():
        path = path.parent
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize


_SHORT_WRITE = re.compile(r"^\d+ requested and \d+ written$")
"""How NumPy says it."""


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one that led to it, says that no space is left (some libraries have that in words alone)."""
    return any(
        (isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT))
        or os.strerror(errno.ENOSPC) in str(one)
        or _SHORT_WRITE.search(str(one))
        for one in error_chain(error)
    )


def error_chain(error: BaseException) -> list[BaseException]:
    """An error and those that led to it, the first one last."""
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.append(one)
        one = one.__cause__ or one.__context__
    return found


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Around code that does nothing but write to ``place``.

    Raises:
        OutputError: the disk is full or broken, or the place may not be written.
    """
    try:
        yield
    except Exception as error:
        systems = [one for one in error_chain(error) if isinstance(one, OSError) and one.errno in _OF_THE_PLACE]
        if not systems and not is_disk_full(error):
            raise
        reason = os.strerror((systems[0].errno if systems else None) or errno.ENOSPC)
        raise OutputError(
            f"{place} cannot be written: {reason}.",
            fix="What was finished is kept: see to the disk, and run the same command again.",
        ) from error


_OF_THE_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM)


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """pydicom warns by quoting header values: keep that out of logs and consoles."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            logger.setLevel(level)
