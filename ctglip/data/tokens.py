"""Cached tokens: what a frozen encoder made of each scan of a store, written once (``ctglip embed --dense``), read for
every step.

``FOLDER/tokens.json`` says which encoder saw which input (``TokenSource``); ``FOLDER/<study_id>.safetensors`` holds of
one study ``level_<n> [c, x, y, z]`` (fp16 or fp32), ``pooled [p]``, ``labels [l]`` with the voxels of each in every
cell of the finest level ``counts [l, x, y, z]``, ``low``, ``high``, ``voxel_mm`` of the encoder's input, and
``affine``, from a cell of the finest level to mm. A file is written by rename: it is whole or not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
from jaxtyping import Bool, Float, Int
from pydantic import Field
from safetensors import SafetensorError, safe_open

from ctglip.config import Settings, validate
from ctglip.data.reader import CachedReader
from ctglip.data.scans import PlacedScan, ScanInputSettings, ScanSettings
from ctglip.errors import StoreError
from ctglip.files import read_json, value_hash
from ctglip.store.tables import Store

ABOUT = "tokens.json"
FORMAT_VERSION = 1


class TokenDataSettings(ScanInputSettings):
    """Training on cached tokens of whole scans: a step costs no encoder, which is frozen.

    Attributes:
        folder: what ``ctglip embed --dense`` wrote.
        batch: scans in a batch, over all ranks.
        keep_gb: memory for tokens; beyond it they are read from the folder again.
    """

    copies: ClassVar[int] = 1

    name: Literal["tokens"] = "tokens"  # pyright: ignore[reportIncompatibleVariableOverride]
    folder: str | None = None
    batch: int = Field(default=8, ge=2)
    keep_gb: float = Field(default=4.0, ge=0)


class TokenLevel(Settings):
    """A level of the encoder.

    Attributes:
        level: its number, fine to coarse.
        channels: of a cell.
        grid: cells along x, y, z.
        strides: voxels of the input for a cell.
    """

    level: int
    channels: int
    grid: tuple[int, int, int]
    strides: tuple[int, ...]


class TokenSource(Settings):
    """Which encoder saw which input.

    Attributes:
        format_version: of the folder.
        recipe: hash of the recipe that the store was made by.
        input: how scans became its input.
        encoder: its settings as plain data.
        weights: hash of its weights.
        probe: its answer to a made-up image.
        levels: those that are cached, fine to coarse; the last one is.
        pooled: width of the pooled vector.
        anchor: where the middle of what a cell sees lies in its stride, along each axis.
        precision: of the tokens.
    """

    format_version: Literal[1] = FORMAT_VERSION
    recipe: str
    input: ScanSettings
    encoder: dict[str, Any]
    weights: str
    probe: dict[str, Any]
    levels: tuple[TokenLevel, ...] = Field(min_length=1)
    pooled: int
    anchor: tuple[Literal["middle", "first", "last"], ...]
    precision: Literal["fp16", "fp32"] = "fp16"

    @property
    def key(self) -> str:
        """Hash of all that decides what the tokens are."""
        return value_hash(self.model_dump(mode="json", exclude={"probe"}))


@dataclass(frozen=True, kw_only=True)
class CachedTokens(PlacedScan):
    """The tokens of one scan.

    Attributes:
        packed: all levels, fine to coarse, then the pooled vector.
        labels: numbers of the labels on the grid.
        counts: voxels of each in every cell of the finest level.
        sides: voxels of the encoder's input.
    """

    packed: Float[np.ndarray, " n"]
    labels: Int[np.ndarray, " l"]
    counts: Int[np.ndarray, "l x y z"]
    sides: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """See ``PlacedScan``."""
        return self.sides

    def image(self, settings: ScanSettings) -> Float[np.ndarray, " n"]:  # noqa: ARG002
        """The packed tokens, which ``CachedEncoder`` reads."""
        return self.packed

    def location(self, count: int) -> Float[np.ndarray, "count x y z"]:
        """The share of each cell that each label fills."""
        found = np.zeros((count, *self.counts.shape[1:]), dtype=np.float32)
        known = self.labels < count
        found[self.labels[known]] = self.counts[known] / np.maximum(self.counts.sum(0, dtype=np.int64), 1)
        return found

    @property
    def present(self) -> Bool[np.ndarray, " 256"]:
        """See ``PlacedScan``."""
        found = np.zeros(256, dtype=bool)
        found[self.labels] = True
        return found


class TokenFiles:
    """A folder of cached tokens.

    Args:
        folder: what ``ctglip embed --dense`` wrote.
        store: whose studies they are of.

    Attributes:
        source: which encoder saw which input.

    Raises:
        StoreError: code ``no_tokens``: it is no such folder.
    """

    def __init__(self, folder: Path, store: Store) -> None:
        if not (folder / ABOUT).is_file():
            raise StoreError(
                f"{folder} holds no cached tokens: it has no {ABOUT}.",
                code="no_tokens",
                fix="Make them: ctglip embed RUN_OR_CONFIG STORE FOLDER --dense",
            )
        self.folder = folder
        table = store.table("studies").select("study_id", "source_checksum").fill_null("")
        self._checksums: dict[str, str] = dict(cast("Any", table.iter_rows()))
        self.source = validate(TokenSource, read_json(folder / ABOUT), str(folder / ABOUT))
        self.key = self.source.key

    @property
    def item_bytes(self) -> int:
        """Memory of one scan, its labels left out."""
        levels = sum(level.channels * int(np.prod(level.grid)) for level in self.source.levels)
        return (levels + self.source.pooled) * (2 if self.source.precision == "fp16" else 4)

    def path(self, study_id: str) -> Path:
        """The file of a study."""
        return self.folder / f"{study_id}.safetensors"

    def has(self, study_id: str) -> bool:
        """The tokens of a study are there, whole, and were made of its source by this encoder."""
        try:
            with safe_open(self.path(study_id), framework="np") as file:
                return file.metadata() == self.metadata(study_id)
        except (OSError, SafetensorError):
            return False

    def metadata(self, study_id: str) -> dict[str, str]:
        """What stands beside a study's tokens: the checksum of what the study was made from, among other things."""
        return {
            "study_id": study_id,
            "source": self._checksums[study_id],
            "key": self.key,
            "recipe": self.source.recipe,
        }

    def read(self, study_id: str) -> CachedTokens:
        """The tokens of a study.

        Raises:
            StoreError: code ``no_tokens``: they are not there, broken, or of another source or encoder.
        """
        fix = f"Run: ctglip embed RUN_OR_CONFIG STORE {self.folder} --dense (what is there is kept)."
        try:
            with safe_open(self.path(study_id), framework="np") as file:
                if file.metadata() != self.metadata(study_id):
                    raise StoreError(
                        f"The tokens of {study_id} in {self.folder} were made of another source or encoder.",
                        code="no_tokens",
                        fix=fix,
                    )
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError as error:
            raise StoreError(f"{self.folder} has no tokens of {study_id}.", code="no_tokens", fix=fix) from error
        except (OSError, SafetensorError) as error:
            raise StoreError(f"{self.path(study_id)} is broken: {error}.", code="no_tokens", fix=fix) from error
        flat = [arrays[f"level_{level.level}"].ravel() for level in self.source.levels]
        return CachedTokens(
            packed=np.concatenate([*flat, arrays["pooled"]]),
            labels=arrays["labels"].astype(np.int64),
            counts=arrays["counts"],
            sides=self.source.input.grid,
            low=arrays["low"],
            high=arrays["high"],
            voxel_mm=arrays["voxel_mm"],
        )

    def reader(self, study_ids: Sequence[str], memory_gb: float, threads: int) -> CachedReader[str, CachedTokens]:
        """Reads the tokens of some studies."""
        capacity = int(memory_gb * 1e9 / max(self.item_bytes, 1))
        return CachedReader(lambda study_id, _: [self.read(study_id)], study_ids, str, capacity, threads)


def open_tokens(settings: TokenDataSettings, store: Store) -> TokenFiles:
    """The tokens that some data settings name.

    Raises:
        StoreError: code ``no_tokens``: none are named, or they were made with another input or recipe.
    """
    if settings.folder is None:
        raise StoreError(
            "data.folder names no cached tokens.",
            code="no_tokens",
            fix="Make them with ctglip embed CONFIG STORE FOLDER --dense, then --set data.folder=FOLDER",
        )
    files = TokenFiles(Path(settings.folder), store)
    made, expected = (one.model_dump(mode="json") for one in (files.source.input, settings.input))
    if made != expected:
        found = {name: value for name, value in made.items() if expected[name] != value}
        raise StoreError(
            f"The tokens in {settings.folder} were made with another input: {found}.",
            code="no_tokens",
            fix="Set data.input to theirs, or make them again.",
        )
    if files.source.recipe != store.info.recipe_hash:
        raise StoreError(
            f"The tokens in {settings.folder} were made from a store of another recipe.",
            code="no_tokens",
            fix="Make them from this store.",
        )
    return files
