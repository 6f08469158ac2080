"""What this project wrote itself and reads again: stores, journals, models, checkpoints, weights, caches."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ctglip.store.journal import Journal, JournalEntry
from ctglip.store.study import write_study
from ctglip.store.tables import Store, compact, create_store
from ctglip.store.verify import verify
from ctglip.types import Failure
from tests.fuzz.targets import Target, folder_target
from tests.models.building import dual_encoder
from tests.models.conftest import write_tiny_bert
from tests.store.conftest import INFO, make_record

REPORT = "Liver: hepatic steatosis. No gallstones."


def _make_store(folder: Path) -> Path:
    store = create_store(folder / "store", INFO)
    write_study(store.path, make_record("00123", "p1"))
    write_study(store.path, make_record("s-b", "p2"))
    compact(store)
    with Journal(store) as journal:
        failure = Failure("s-c", "ingest", "no_file", "There is none.", {"row": 3})
        journal.record(
            [JournalEntry("00123", "recipe-a", "f", "sum-00123"), JournalEntry("s-c", "recipe-a", failure=failure)]
        )
    return store.path


def _read_store(path: Path) -> None:
    store = Store.open(path)
    for name in ("studies", "organs", "reports", "findings", "regions", "labels", "splits"):
        store.table(name)
    study = store.study("00123")
    study.image((2, 9, 3, 8, 1, 5))
    study.organs()
    for table in ("studies", "organs", "lesions"):
        study.rows(table)
    _ = study.source, study.shape, study.spacing_mm
    verify(store)


def _read_journal(path: Path) -> None:
    with Journal(Store.open(path)) as journal:
        journal.committed()
        journal.failures()


def _make_model(folder: Path) -> Path:
    from ctglip.models.encoders.cnn import CNNSettings
    from ctglip.models.release import Release, save_release
    from ctglip.models.text import TextEncoderSettings, load_text_encoder

    encoder = load_text_encoder(TextEncoderSettings(name=str(write_tiny_bert(folder / "bert")), max_length=16))
    for name in ("organ_dictionary", "abnormality_dictionary"):
        (folder / name).mkdir()
        (folder / name / "a.yaml").write_text("a: b\n")
    shape: dict[str, Any] = {"in_channels": 2, "dim": 16, "embedding_dim": 8, "text_dim": 16}
    model = dual_encoder(encoder=CNNSettings(widths=(8, 16), blocks=(0, 1)), regions={"name": "crop"}, **shape)
    release = Release(
        model=model.eval(),
        organs=("liver", "spleen"), recipe={"spacing_mm": [3.0, 3.0, 3.0]}, crops={"grid": [16, 16, 16]},
        organ_dictionary=folder / "organ_dictionary", abnormality_dictionary=folder / "abnormality_dictionary",
        text_settings=encoder.settings, text_hash=encoder.hash,
        prompts={"the liver": encoder.encode(["the liver"])[0]}, calibration={"liver:cyst": {"threshold": 0.4}},
        provenance={"seed": 7}, text_encoder=encoder,
    )  # fmt: skip
    return save_release(folder / "model", release)


def _read_model(path: Path) -> None:
    from ctglip.models.release import load_release

    load_release(path).encoder()


def _weights(folder: Path) -> list[Target]:
    from ctglip.models.weights.reading import read_state

    state = {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.zeros(3)}
    save_file(state, folder / "w.safetensors")
    torch.save({"state_dict": state, "epoch": 3}, folder / "w.pt")
    torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)
    safe, new, old = (folder / name for name in ("w.safetensors", "w.pt", "old.pt"))
    return [
        Target("safetensors", ".safetensors", [safe.read_bytes()], read_state),
        Target("torch weights", ".pt", [new.read_bytes(), old.read_bytes()], read_state),
    ]


def _checkpoint(folder: Path) -> Path:
    from ctglip.files import file_checksum, write_json
    from ctglip.training.checkpoint import _STATE, _TENSORS, FORMAT_VERSION

    path = folder / "checkpoints" / "step-0000003"
    path.mkdir(parents=True)
    save_file({"objective/weight": torch.ones(2, 3)}, path / _TENSORS)
    about = {"format_version": FORMAT_VERSION, "step": 3, "checksum": file_checksum(path / _TENSORS)}
    write_json(path / _STATE, about)
    return path.parent


def _read_checkpoint(path: Path) -> None:
    from ctglip.errors import ModelError
    from ctglip.training.checkpoint import _complete

    about = _complete(path / "step-0000003")
    if isinstance(about, str):
        raise ModelError(about)


def _cache(folder: Path) -> tuple[Path, Any]:
    """The cache of an LLM that has answered one report, and its reader."""
    from ctglip.reports.llm import LLMParser, LLMSettings
    from ctglip.reports.parser import get_parser

    (folder / "llm").mkdir()
    path = folder / "llm" / "answers.sqlite"
    settings = LLMSettings(url="http://127.0.0.1:9", model="none", cache=path, attempts=1, timeout_s=0.1)
    parser = LLMParser(settings, get_parser())
    keys: list[str] = []
    parser._recall = lambda key: keys.append(key)  # type: ignore[method-assign]
    parser.parse(REPORT)
    answer = {"findings": [{"sentence": 0, "organ": "liver", "abnormality": "hepatic_steatosis", "status": "affirmed"}]}
    parser._remember(keys[0], json.dumps(answer))

    def read(copy: Path) -> None:
        changed = settings.model_copy(update={"cache": copy / "answers.sqlite"})
        LLMParser(changed, get_parser()).parse(REPORT)

    return path.parent, read


def folder_targets(folder: Path) -> list[Target]:
    """Each file of a store, a model, a checkpoint and a cache, made below ``folder``."""
    store, model = _make_store(folder), _make_model(folder)
    with closing(sqlite3.connect(store / "journal.sqlite")) as journal:
        journal.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    inner = ["store.json", *(f"{name}.parquet/part-000000.parquet" for name in ("studies", "organs", "findings"))]
    inner += [
        f"studies/00123.zarr/{name}" for name in ("zarr.json", "image/zarr.json", "image/c.0.0.0.0", "organs/c.0.0.0.0")
    ]
    targets = [folder_target(f"store {name}", store, name, _read_store) for name in inner if (store / name).is_file()]
    targets.append(folder_target("journal", store, "journal.sqlite", _read_journal))
    names = ["config.json", "model.safetensors", "prompts.json", "prompts.safetensors", "calibration.json"]
    names += [f"text_encoder/{path.name}" for path in sorted((model / "text_encoder").glob("*.json"))]
    targets += [folder_target(f"model {name}", model, name, _read_model) for name in names]
    checkpoint = _checkpoint(folder)
    targets += [
        folder_target(f"checkpoint {name}", checkpoint, f"step-0000003/{name}", _read_checkpoint)
        for name in sorted(file.name for file in (checkpoint / "step-0000003").iterdir())
    ]
    cache, read = _cache(folder)
    return [*targets, folder_target("llm cache", cache, "answers.sqlite", read), *_weights(folder)]
