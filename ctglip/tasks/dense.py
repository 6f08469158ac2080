"""``embed --dense``: what an image encoder makes of each scan of a store, token by token, kept for training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.numpy import save_file

from ctglip.config import load_settings
from ctglip.data.reader import CachedReader
from ctglip.data.scans import ScanCut, ScanInputSettings, ScanSettings, scan_on_grid
from ctglip.data.tokens import ABOUT, TokenFiles, TokenLevel, TokenSource
from ctglip.encoder_cards import encoder_card
from ctglip.errors import ConfigError, CTGLIPError, OutputError, StoreError
from ctglip.files import atomic_path, exclusive, read_json, write_json, writing
from ctglip.inference.heatmap import grid_affine
from ctglip.models.device import resolve_device
from ctglip.models.encoders import build_encoder
from ctglip.models.encoders.base import Encoder, VisionFeatures
from ctglip.models.encoders.cached import encoder_hash
from ctglip.models.encoders.probe import encoder_probe
from ctglip.models.encoders.tuning import FullEncoder
from ctglip.models.release import load_release
from ctglip.store.tables import Store
from ctglip.training.pretrain_config import PretrainConfig
from ctglip.types import Failure, Progress

_THREADS = 2
_SIDE = {"middle": 0.0, "first": 1.0, "last": -1.0}
"""Which way the middle of what a cell sees lies from the middle of its stride."""


@dataclass(frozen=True)
class ScanEncoder:
    """An encoder that scans are encoded with.

    Attributes:
        encoder: in evaluation mode.
        scans: how a scan becomes its input.
        levels: those that are encoded, by their number; the last one is among them.
    """

    encoder: Encoder
    scans: ScanSettings
    levels: tuple[int, ...]


@dataclass(frozen=True)
class DenseTokens:
    """What was written.

    Attributes:
        folder: of the tokens.
        studies: encoded now.
        already: studies whose tokens were there.
        levels: channels and grid of each.
        failures: studies without tokens, with the reason.
    """

    folder: str
    studies: int
    already: int
    levels: tuple[dict[str, Any], ...]
    failures: tuple[dict[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def embed_dense(
    source: str | Path,
    store: Path,
    out: Path,
    encoder: str | None = None,
    weights: str | None = None,
    changes: Sequence[str] = (),
    precision: Literal["fp16", "fp32"] = "fp16",
    progress: Progress | None = None,
) -> DenseTokens:
    """Encode each scan of a store once. What is there already is kept; a study that cannot be encoded is left out and
    named.

    Args:
        source: a run (or its ``model/`` folder) of a model that reads whole scans; or a config of pretraining, a file
            or a shipped name, whose ``model.encoder`` and ``data.input`` are taken.
        store: of scans, made by a run's recipe.
        out: folder to write, which ``data.folder`` names.
        encoder, weights: a released encoder and its file in place of the config's, with the window of its card.
        changes: ``a.b=c``, of the config.
        precision: of the tokens.
        progress: called with (studies done, studies).

    Raises:
        ConfigError: no such config, or it reads no whole scans.
        ModelError: no encoder, or weights that do not fit it.
        StoreError: no store of scans.
        OutputError: ``out`` holds tokens of something else (``other_tokens``), is in use, or cannot be written.
    """
    opened = Store.open(store)
    if opened.info.modality != "ct":
        raise StoreError(f"{store} is a store of radiographs.", code="other_modality", fix="Name a store of scans.")
    found = _of_run(Path(source), opened) if Path(source).is_dir() else None
    if found is not None and (encoder or weights or changes):
        raise ConfigError("--encoder, --weights and --set are of a config, and a run is named.", fix="Leave them out.")
    found = found or _of_config(source, encoder, weights, changes)
    found.encoder.eval().requires_grad_(False)
    about = _token_source(found, opened, precision)
    with exclusive(out):
        _begin(out, about)
        files = TokenFiles(out, opened)
        found.encoder.to(resolve_device("auto"))
        return _encode(found, files, opened, progress)


def _of_run(folder: Path, store: Store) -> ScanEncoder:
    release = load_release(folder)
    if release.scans is None or release.reads_crops:
        raise ConfigError(
            f"{folder} reads crops of organs, not whole scans.",
            fix="Name a config with data.name: tokens and model.encoder.weights: RUN.",
        )
    if release.recipe != store.info.recipe:
        raise StoreError(
            f"{store.path} was made by another recipe than {folder} was trained on.",
            code="other_recipe",
            fix="Preprocess the cohort with the model's recipe (its config.json holds it).",
        )
    encoder = release.model.encoder
    levels = _with_last(release.model.read_levels, encoder)
    return ScanEncoder(encoder, ScanSettings.model_validate(release.scans), levels)


def _of_config(source: str | Path, encoder: str | None, weights: str | None, changes: Sequence[str]) -> ScanEncoder:
    if bool(weights) != bool(encoder):
        raise ConfigError("--encoder NAME and --weights FILE go together.", fix="Give both.")
    given: dict[str, Any] = {}
    if encoder:
        card = encoder_card(encoder).ct
        if card is None:
            raise ConfigError(f"{encoder} is an encoder of radiographs.", fix="Name one of scans.")
        given = {
            "model": {"encoder": {"name": encoder, "weights": weights, "train": {"name": "frozen"}}},
            "data": {"input": {"windows_hu": [list(card.window_hu)]}},
        }
    config = load_settings(PretrainConfig, source, changes, given)
    data = config.data
    if not isinstance(data, ScanInputSettings):
        raise ConfigError(
            f"data.name is {data.name}, and tokens are of whole scans.", fix="Set data.name to tokens or scans."
        )
    settings = config.complete_model()
    torch.manual_seed(config.seed)  # an encoder without weights is the one that a run of this seed begins with
    built = build_encoder(settings.encoder, data.channels)
    built.load_pretrained()
    levels = getattr(settings.regions, "levels", (-1,))
    return ScanEncoder(built, data.input, _with_last(levels, built))


def _with_last(levels: Sequence[int], encoder: Encoder) -> tuple[int, ...]:
    """Numbers of levels, fine to coarse, with the last one."""
    count = len(encoder.level_channels)
    if any(not -count <= level < count for level in levels):
        raise ConfigError(f"model.regions.levels is {tuple(levels)}, and the encoder has {count} levels.")
    return tuple(sorted({level % count for level in (*levels, -1)}))


def _token_source(found: ScanEncoder, store: Store, precision: Literal["fp16", "fp32"]) -> TokenSource:
    encoder, sides = found.encoder, found.scans.grid
    try:
        encoder.check_sides(torch.zeros(1, 1, *sides, device="meta"))
    except ValueError as error:
        raise ConfigError(f"data.input.grid: {error}", fix="Set it to multiples of the encoder's stride.") from error
    saved = encoder.settings.model_copy(update={"weights": None, "partial": False, "train": FullEncoder()})
    return TokenSource(
        recipe=store.info.recipe_hash,
        input=found.scans,
        encoder=saved.model_dump(mode="json"),
        weights=encoder_hash(encoder),
        probe=encoder_probe(encoder, found.scans.channels),
        levels=tuple(
            TokenLevel(
                level=level,
                channels=encoder.level_channels[level],
                grid=_cells(sides, encoder.strides[level]),
                strides=encoder.strides[level],
            )
            for level in found.levels
        ),
        pooled=encoder.pooled_dim,
        anchor=(encoder.anchor,) * 3 if isinstance(encoder.anchor, str) else encoder.anchor,
        precision=precision,
    )


def _cells(sides: tuple[int, int, int], strides: tuple[int, ...]) -> tuple[int, int, int]:
    x, y, z = (side // step for side, step in zip(sides, strides, strict=True))
    return x, y, z


def _begin(out: Path, about: TokenSource) -> None:
    """Write what the folder holds, or see that it is the same.

    Raises:
        OutputError: code ``other_tokens``.
    """
    path = out / ABOUT
    mine = about.model_dump(mode="json")
    if path.is_file():
        before = read_json(path)
        differs = [name for name, value in mine.items() if name != "probe" and before.get(name) != value]
        if differs:
            raise OutputError(
                f"{out} holds tokens that were made otherwise ({', '.join(differs)}).",
                code="other_tokens",
                fix="Name another folder, or remove this one.",
            )
        return
    with writing(out):
        write_json(path, mine)


def _encode(found: ScanEncoder, files: TokenFiles, store: Store, progress: Progress | None) -> DenseTokens:
    study_ids = list(store.study_ids)
    missing = [study_id for study_id in study_ids if not files.has(study_id)]
    reader: CachedReader[str, ScanCut] = CachedReader(
        lambda study_id, _: [scan_on_grid(store.study(study_id), found.scans)],
        missing,
        str,
        0,
        _THREADS,
        max_damaged=1.0,
    )
    failures, already = [], len(study_ids) - len(missing)
    for done, (study_id, cut) in enumerate(reader.readable(missing), start=already + 1):
        arrays = _tokens(found, files.source, cut, store.study(study_id).affine)
        if isinstance(arrays, str):
            failures.append(Failure(study_id, "tokens", "tokens", arrays))
        else:
            with writing(files.folder), atomic_path(files.path(study_id)) as temporary:
                save_file(dict(arrays), temporary, metadata=files.metadata(study_id))
        if progress:
            progress(done, len(study_ids))
    failures += reader.failures
    levels = tuple(level.model_dump(mode="json") for level in files.source.levels)
    return DenseTokens(
        str(files.folder), len(missing) - len(failures), already, levels,
        tuple(asdict(failure) for failure in failures),
    )  # fmt: skip


@torch.no_grad()
def _tokens(
    found: ScanEncoder, source: TokenSource, cut: ScanCut, affine: np.ndarray
) -> Mapping[str, np.ndarray] | str:
    """The arrays of a study's file, or why there are none."""
    parameter = next(found.encoder.parameters())
    image = torch.from_numpy(cut.image(found.scans))[None].to(parameter.device, parameter.dtype)
    try:
        vision = found.encoder(image)
    except (CTGLIPError, ValueError, RuntimeError) as error:
        return str(error).splitlines()[0]
    kind = np.float16 if source.precision == "fp16" else np.float32
    with np.errstate(over="ignore"):
        arrays = {name: value.float().cpu().numpy().astype(kind) for name, value in _named(vision, source)}
    if not all(np.isfinite(value).all() for value in arrays.values()):
        more = " (beyond fp16: take --precision fp32)" if kind is np.float16 else ""
        return f"The encoder's answer holds NaN or infinite numbers{more}."
    finest = source.levels[0]
    step = (cut.high - cut.low) / np.array(cut.shape)
    cell = step * np.array(finest.strides)
    low = cut.low + 0.5 * (step - cell) * np.array([_SIDE[one] for one in source.anchor])
    labels, counts = _label_counts(cut, finest.grid)
    placed = {"low": cut.low, "high": cut.high, "voxel_mm": cut.voxel_mm, "affine": grid_affine(low, cell, affine)}
    return {**arrays, "labels": labels, "counts": counts} | {
        name: np.ascontiguousarray(value, np.float64) for name, value in placed.items()
    }


def _named(vision: VisionFeatures, source: TokenSource) -> Iterator[tuple[str, torch.Tensor]]:
    for level in source.levels:
        tokens = vision.levels[level.level][0]
        assert tokens.shape == (level.channels, *level.grid)
        yield f"level_{level.level}", tokens.contiguous()
    yield "pooled", vision.pooled[0].contiguous()


def _label_counts(cut: ScanCut, grid: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The labels on the grid (background included), and the voxels of each in every cell."""
    labels = np.flatnonzero(cut.present) if cut.labels is not None else np.zeros(1, np.int64)
    there = cut.location(256)
    sides = [part for cells, side in zip(grid, there.shape, strict=True) for part in (cells, side // cells)]
    blocks = there.reshape(sides)
    counts = np.stack([(blocks == label).sum((1, 3, 5), dtype=np.int32) for label in labels])
    small = counts.max(initial=0) <= np.iinfo(np.uint16).max
    return labels.astype(np.uint8), counts.astype(np.uint16) if small else counts
