"""One flipped bit in a store is named by ``verify``, refused, or changes nothing that is read."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctglip.errors import CTGLIPError
from ctglip.store.format import STUDIES, TABLES
from ctglip.store.tables import Store
from ctglip.store.verify import verify

FLIPS = 12
FILES = ("store.json", "**/*.parquet", f"{STUDIES}/00123.zarr/**/*")


def everything(store: Store) -> dict[str, Any]:
    """All that a store tells its readers."""
    found: dict[str, Any] = {name: store.table(name).to_dicts() for name in TABLES}
    found["info"] = store.info.model_dump()
    for study_id in store.study_ids:
        study = store.study(study_id)
        organs = study.organs()
        found[study_id] = [study.image().tobytes(), None if organs is None else organs.tobytes(), study.affine.tolist()]
        found[study_id] += [study.patient_id, study.spacing_mm, study.shape, *(study.rows(name) for name in TABLES)]
        source = study.source
        found[study_id].append(source and [source.shape, np.asarray(source.affine).tolist()])
    return found


@pytest.mark.parametrize("pattern", FILES)
def test_no_flip_is_silent(pattern: str, store: Store) -> None:
    chance = random.Random(0)
    sound, before = everything(store), verify(store)
    named = harmless = 0
    for path in sorted(path for path in store.path.glob(pattern) if path.is_file() and path.stat().st_size):
        data = path.read_bytes()
        for _ in range(FLIPS):
            changed = bytearray(data)
            changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            path.write_bytes(changed)
            try:
                again = Store.open(store.path)
                if verify(again) != before:
                    named += 1
                    continue
                assert everything(again) == sound, f"{path.relative_to(store.path)} was read otherwise"
                harmless += 1
            except CTGLIPError:
                named += 1
        path.write_bytes(data)
    assert named > harmless / 2
    assert verify(Store.open(store.path)) == before


def test_what_is_flipped_by_hand_is_named(store: Store) -> None:
    """A number of an affine, and a name in ``store.json``: what no other checksum holds."""
    file: Path = store.path / STUDIES / "00123.zarr" / "zarr.json"
    text = file.read_text()
    assert "7.25" in text
    file.write_text(text.replace("7.25", "7.35"))
    assert [problem.study_id for problem in verify(Store.open(store.path)) if problem.code == "damaged_study"] == [
        "00123"
    ]
    file.write_text(text)
    info = store.path / "store.json"
    info.write_text(info.read_text().replace("liver", "livor"))
    with pytest.raises(CTGLIPError, match="has changed since it was written"):
        Store.open(store.path)


def test_studies_of_before_have_no_checksum_of_their_attributes(store: Store) -> None:
    import json

    from ctglip.store.study import StudyReader

    file = store.path / STUDIES / "00123.zarr" / "zarr.json"
    about = json.loads(file.read_text())
    del about["attributes"]["checksums"]["attributes"]
    file.write_text(json.dumps(about))
    assert StudyReader(file.parent).damage() == []
