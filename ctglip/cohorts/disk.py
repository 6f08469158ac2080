"""What lies below the folder of a data set, walked once: files by name, DICOM series by folder, tables by any of their
names, with errors that say which file, what was expected and what was found."""

from __future__ import annotations

import fnmatch
import gzip
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import polars as pl

from ctglip.errors import CohortError
from ctglip.table_files import SEPARATORS, read_table, require_columns

_BULK = (".dcm", ".dicom", ".ima")
"""Files that are counted by folder and not kept by name: data sets have millions of them."""
_UNFINISHED = (".incomplete", ".part", ".partial", ".crdownload", ".aria2", ".download", ".tmp")
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip", ".tar.xz", ".7z")
_TABLES = (".csv", ".csv.gz", ".tsv", ".xlsx", ".parquet", ".json", ".txt")
_LISTED = 6
_AGAIN = "Its download did not end; download it again."
_TAIL = 1 << 16
"""Bytes of a table's end that are looked at."""


class Disk:
    """The files below one folder; links to folders are followed, each folder once.

    Args:
        root: the folder.
        dicom_files: DICOM files are kept by name, as those of radiographs have to be.
        leaves: names of folders that are noted and not looked into, such as those of one mask an organ.

    Attributes:
        root: the folder.
        series: folder -> how many DICOM files lie in it.
        empty: files without a byte.
        unfinished: files that a download left half done.
        leaves: folders that were not looked into.
        archives: files that are still to be unpacked.
        renamed: columns that were found under slightly other names, in sentences.
    """

    def __init__(self, root: Path, dicom_files: bool = False, leaves: str = "") -> None:
        if not root.is_dir():
            raise CohortError(f"There is no folder {root}.", code="no_folder", fix="Give the folder of the data set.")
        self.root = root
        self._dicom_files = dicom_files
        self._leaves = re.compile(leaves) if leaves else None
        self.leaves: list[str] = []
        self.series: dict[str, int] = {}
        self.empty: set[str] = set()
        self.unfinished: list[str] = []
        self.archives: list[str] = []
        self.renamed: list[str] = []
        self._folders: dict[str, list[str]] = {}
        self._walk()

    def _walk(self) -> None:
        visited: set[tuple[int, int]] = set()
        stack = [("", str(self.root))]
        while stack:
            inner, folder = stack.pop()
            try:
                status = Path(folder).stat()
                if (status.st_dev, status.st_ino) in visited:
                    continue
                visited.add((status.st_dev, status.st_ino))
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                raise CohortError(f"{folder} cannot be read: {error.strerror}.", code="unreadable") from error
            for entry in entries:
                if entry.is_dir() and self._leaves is not None and self._leaves.fullmatch(entry.name):
                    self.leaves.append(inner + entry.name)
                elif entry.is_dir():
                    stack.append((f"{inner}{entry.name}/", entry.path))
                elif not entry.name.startswith("."):
                    self._take(inner, entry)

    def _take(self, inner: str, entry: os.DirEntry[str]) -> None:
        name = entry.name.lower()
        if name.endswith(_BULK) and not self._dicom_files:
            self.series[inner.rstrip("/")] = self.series.get(inner.rstrip("/"), 0) + 1
            return
        if name.endswith(_UNFINISHED):
            self.unfinished.append(inner + entry.name)
            return
        if name.endswith(_ARCHIVES):
            self.archives.append(inner + entry.name)
        try:
            size = entry.stat().st_size
        except OSError:
            size = 0
        if not size:
            self.empty.add(inner + entry.name)
        self._folders.setdefault(entry.name, []).append(inner)

    def paths(self, name: str) -> list[str]:
        """Every file of that name, relative to the root."""
        return [inner + name for inner in self._folders.get(name, ())]

    def named(self, pattern: str) -> Iterator[tuple[str, re.Match[str]]]:
        """Every file whose name matches as a whole, relative to the root, in the order of names."""
        compiled = re.compile(pattern)
        for name in sorted(self._folders):
            if match := compiled.fullmatch(name):
                for inner in self._folders[name]:
                    yield inner + name, match

    def has(self, path: str) -> bool:
        """Whether there is such a file, DICOM folder or folder of files."""
        folder, _, name = path.rpartition("/")
        return (f"{folder}/" if folder else "") in self._folders.get(name, ()) or (self.root / path).exists()

    def nothing(self, expected: str) -> CohortError:
        """The error for a folder without an image of the data set.

        Args:
            expected: path of one that should be there.
        """
        packed = f" {len(self.archives)} archives are still packed, first {self.archives[0]}." if self.archives else ""
        files = sum(map(len, self._folders.values())) + sum(self.series.values())
        return CohortError(
            f"{self.root} has no {expected} or any like it among {files} files.{packed}",
            code="no_images",
            fix="Unpack the archives." if packed else "Give the folder of the data set.",
        )

    def find(self, *names: str) -> str | None:
        """The first of several relative paths that is there; else the shortest path of a file of one of the names."""
        for name in names:
            inner, _, last = name.rpartition("/")
            if (f"{inner}/" if inner else "") in self._folders.get(last, ()):
                return name
        found = [path for name in names for path in self.paths(PurePosixPath(name).name)]
        return min(found, key=lambda path: (path.count("/"), path), default=None)

    def table(
        self,
        *names: str,
        columns: Sequence[str] = (),
        maybe: Sequence[str] = (),
        header: Sequence[str] = (),
        separator: str | None = None,
        bare: bool = False,
    ) -> pl.DataFrame:
        """A table by one of its names, all cells text, empty ones null.

        Args:
            names: relative paths; a table that was moved is found by its file's name.
            columns: that it must have; other case, blanks and underscores are the same name.
            maybe: that it may have.
            header: its column names, where the file has none.
            separator: between its cells; the one that makes most columns when None.
            bare: it may be a list without a heading, so that its only line is a row.

        Raises:
            CohortError: ``no_table``, ``bad_table``, ``missing_column``.
        """
        path = self.find(*names)
        if path is None:
            raise self.no_table(names, "Download it, or give the folder that holds the data set.")
        table = self._named_as_expected(path, read_cells(self.root / path, header, separator), (*columns, *maybe))
        require_columns(self.root / path, table, columns, "Is it the table of another version?")
        if table.is_empty() and not bare:
            raise CohortError(f"{self.root / path} has headings and no row.", code="bad_table", fix=_AGAIN)
        return table

    def no_table(self, names: Sequence[str], fix: str) -> CohortError:
        """The error for a table that is there under none of its names, with the tables that are."""
        beside = {PurePosixPath(name).parent.name for name in names}
        found = {path for name in self._folders if name.endswith(_TABLES) for path in self.paths(name)}
        near = sorted(found, key=lambda path: (PurePosixPath(path).parent.name not in beside, path))
        listed = ", ".join(near[:_LISTED]) + (", ..." if len(near) > _LISTED else "")
        return CohortError(
            f"{self.root} has no table {' or '.join(names)}; the tables that are there: {listed or 'none'}.",
            code="no_table",
            fix=fix,
        )

    def first_lacking(self, groups: Sequence[Sequence[str]]) -> Sequence[str]:
        """The names of the first table that is there under none of them (``*`` stands for anything); empty where all
        are there."""
        for names in groups:
            patterns = [f"(?i){fnmatch.translate(name)}" for name in names if "*" in name]
            if not self.find(*names) and not any(path for pattern in patterns for path in self.named(pattern)):
                return names
        return ()

    def _named_as_expected(self, path: str, table: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
        """Columns that differ from the expected names in case, blanks and underscores alone, under those names."""
        names: dict[str, str] = {}
        for expected in columns:
            alike = [name for name in table.columns if _plain(name) == _plain(expected)]
            if expected not in table.columns and len(alike) == 1:
                names[alike[0]] = expected
                self.renamed.append(f"{path}: column {alike[0]!r} was taken as {expected!r}.")
        return table.rename(names) if names else table

    def optional(self, *names: str, columns: Sequence[str] = (), bare: bool = False) -> pl.DataFrame | None:
        """The table, or None where none of its names is there; one that is there must be right."""
        return self.table(*names, columns=columns, bare=bare) if self.find(*names) else None

    def rows_by(self, key: str, *names: str, columns: Sequence[str] = ()) -> dict[str, dict[str, str | None]]:
        """The rows of a table by the cells of one column, the first of several; none where the table is not there."""
        table = self.optional(*names, columns=(key, *columns))
        found: dict[str, dict[str, str | None]] = {}
        for row in () if table is None else table.iter_rows(named=True):
            if row[key] is not None:
                found.setdefault(row[key], row)
        return found

    def rows_of(self, *names: str, columns: Sequence[str] = ()) -> Iterator[dict[str, str | None]]:
        """The rows of a table; none where it is not there. Only its file's own name is looked for."""
        table = self.optional(*names, columns=columns)
        if table is not None:
            yield from table.iter_rows(named=True)

    def lines(self, *names: str, may_be_empty: bool = False) -> list[str] | None:
        """The lines of a text file without blanks around them, or None where none of its names is there.

        Raises:
            CohortError: ``bad_table``: it has no byte, and needs some.
        """
        path = self.find(*names)
        if path is None:
            return None
        if path in self.empty and not may_be_empty:
            raise CohortError(f"{self.root / path} is empty.", code="bad_table", fix=_AGAIN)
        text = (self.root / path).read_text(encoding="utf-8", errors="replace")
        return [line.strip() for line in text.splitlines() if line.strip()]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def read_cells(path: Path, header: Sequence[str] = (), separator: str | None = None) -> pl.DataFrame:
    """A table with every cell as text, blanks around it taken away, empty cells null; CSV by polars, which is quick.

    Raises:
        CohortError: ``bad_table``: it cannot be read, or it is cut off.
    """
    if not path.name.lower().endswith((".csv", ".csv.gz", ".tsv", ".txt")):
        return read_table(path)
    if path.stat().st_size == 0:
        raise CohortError(f"{path} is empty.", code="bad_table", fix=_AGAIN)
    try:
        table = pl.read_csv(
            path,
            infer_schema=False,
            separator=separator or _separator(path),
            has_header=not header,
            truncate_ragged_lines=True,
            encoding="utf8-lossy",
        )
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CohortError(
            f"{path} cannot be read as a table: {first}.", code="bad_table", fix="Download it again."
        ) from error
    _check_end(path, len(table.columns), separator or _separator(path))
    names = tuple(header) or tuple(name.strip() for name in table.columns)
    table = table[:, : len(names)].rename(dict(zip(table.columns, names, strict=False)))
    return table.select(pl.all().str.strip_chars().replace("", None))


def _check_end(path: Path, columns: int, separator: str) -> None:
    """A table whose last line has neither an end nor all of its cells was cut off; with quotes nobody can tell."""
    if path.suffix == ".gz":
        return
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - _TAIL))
        last = stream.read().rsplit(b"\n", 1)[-1].decode("utf-8", "replace")
    if last.strip() and '"' not in last and last.count(separator) + 1 < columns:
        raise CohortError(
            f"{path} ends in the middle of a line: {last.count(separator) + 1} of {columns} cells.",
            code="bad_table",
            fix=_AGAIN,
        )


def _separator(path: Path) -> str:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
        first = stream.readline(1 << 20).decode("utf-8", "replace")
    return max(SEPARATORS, key=first.count)
