"""What is done with one upload: its files are read and checked, its organs found, and each model encodes it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ctglip.ct.quality import refuse_errors
from ctglip.errors import CTGLIPError
from ctglip.inference.encoded_study import EncodedStudy, save_study
from ctglip.modality import Checks
from ctglip.pages.cxr import cxr_picture
from ctglip.pages.parts import Picture
from ctglip.pages.pictures import PLANES, slice_pictures
from ctglip.serve.folder import ServeFolder
from ctglip.serve.jobs import Job, JobStore
from ctglip.serve.models import ServedModel
from ctglip.serve.uploads import (
    UploadLimits,
    expand,
    image_path,
    masks_path,
    series_row,
    set_aside,
    usable_series,
)
from ctglip.serve.viewing import picture_bytes, write_views
from ctglip.store.study import organ_row
from ctglip.store.tables import Store
from ctglip.types import QualityCheck, Scan, Standardized

_REWORDED = {
    "unknown_masks": ("Some mask names are not in the organ dictionary and were ignored.", ""),
    "no_known_organ": ("The masks hold no organ of the dictionary.", "Use TotalSegmentator's names or numbers."),
    "weights_missing": (
        "The scan comes without masks, and TotalSegmentator's weights are not on this machine.",
        "Give organ masks; or get the weights where there is a network (totalseg_download_weights -t total_fast), name "
        "their folder in TOTALSEG_WEIGHTS_PATH, and start the server again.",
    ),
    "mask_slice_spacing": ("", "Save the masks with the geometry of their scan."),
}
"""Messages that quote names of masks or folders, or speak to a command line, and what is said in their place."""


class Cancelled(Exception):
    """Nobody wants an upload any more."""


@dataclass(frozen=True)
class Workplace:
    """What work is done with.

    Attributes:
        folder, jobs: of the server.
        models: by their keys.
        limits: of uploads.
        store: of which studies are opened, or None.
    """

    folder: ServeFolder
    jobs: JobStore
    models: Mapping[str, ServedModel]
    limits: UploadLimits
    store: Store | None = None


def work_on(job: Job, workplace: Workplace) -> None:
    """Do all that is to be done with an upload; whatever goes wrong becomes its error."""
    try:
        done = _stored(job, workplace) if job.kind == "stored" else _uploaded(job, workplace)
    except Cancelled:
        return
    except CTGLIPError as error:
        workplace.jobs.end(job.id, "failed", _reworded(error))
    except MemoryError:
        message = "There is too little memory for this scan."
        workplace.jobs.end(job.id, "failed", CTGLIPError(message, code="memory", fix="Give a smaller one."))
    except Exception as error:  # noqa: BLE001  one bad upload ends no server; its text may quote a header
        message = f"The scan cannot be used ({type(error).__name__})."
        workplace.jobs.end(job.id, "failed", CTGLIPError(message, code="unexpected", fix="Export it again."))
    else:
        workplace.jobs.end(job.id, "ready" if done else "choose")
    finally:
        gc.collect()


def _begin(job: Job, workplace: Workplace) -> Callable[[str], None]:
    begun: set[str] = set()

    def begin(step: str) -> None:
        """Note that a step begins, once; raises ``Cancelled`` where the upload was stopped or deleted."""
        try:
            running = workplace.jobs.get(job.id).state == "running"
        except CTGLIPError:
            running = False
        if not running:
            raise Cancelled
        if step not in begun:  # each of several models encodes, in one step
            begun.add(step)
            workplace.jobs.begin(job.id, step)

    return begin


def _uploaded(job: Job, workplace: Workplace) -> bool:
    """Whether it is done, not to be chosen from."""
    begin, first = _begin(job, workplace), next(iter(workplace.models.values())).pipeline
    begin("read")
    folders = {role: workplace.folder.uploaded(job.id, role) for role in ("scan", "masks")}
    for role, folder in folders.items():
        if folder.is_dir():
            expand(folder, "masks" if role == "masks" else "scan", workplace.limits)
    path = image_path(folders["scan"], first.modality.name)
    if path.is_dir():
        series = usable_series(path)
        workplace.jobs.tell(job.id, series=[series_row(one) for one in series])
        if len(series) > 1:
            if job.choice is None:
                return False
            path = set_aside(series[min(job.choice, len(series) - 1)], workplace.folder.scan(job.id) / "series")
    image, checks = first.modality.read(path, first.recipe)
    pixels, spacing_mm = (image.hu, image.spacing_mm) if isinstance(image, Scan) else (image.pixels, (1.0, 1.0, 1.0))
    write_pictures(stills(pixels, spacing_mm), workplace.folder.pictures(job.id))
    begin("check")
    workplace.jobs.tell(job.id, checks=_plain(checks), image=_size_of(pixels, spacing_mm))
    refuse_errors(checks)
    begin("segment")
    _encode_each(job, workplace, image, checks, masks_path(folders["masks"]), begin)
    return True


def _encode_each(
    job: Job, workplace: Workplace, image: Any, checks: Checks, masks: Any, begin: Callable[[str], None]
) -> None:
    """Each model reads the image; organs that TotalSegmentator found for one serve those with the same dictionary."""
    found: dict[str, EncodedStudy] = {}
    for key, model in workplace.models.items():
        pipeline = model.pipeline
        same = found.get(pipeline.dictionaries.organs.hash)
        given = masks if masks is not None or same is None else same.label_map
        settings = ["cut_off=answer"] if pipeline.modality.has_border else []
        study = pipeline.encode_study(
            image, masks=given, settings=settings, begin=lambda step: step == "encode" and begin(step)
        )
        found.setdefault(pipeline.dictionaries.organs.hash, study)
        noticed = tuple(dict.fromkeys((*checks, *study.standardized.checks)))
        study = replace(
            study,
            masks="uploaded masks" if masks is not None else same.masks if same else study.masks,
            standardized=replace(study.standardized, checks=noticed),
        )
        _keep(job, workplace, key, study)


def _keep(job: Job, workplace: Workplace, key: str, study: EncodedStudy) -> None:
    """Write what questions and the page need."""
    organs = workplace.models[key].pipeline.dictionaries.organs
    study = replace(study, standardized=replace(study.standardized, checks=_quiet(study.standardized.checks)))
    save_study(study, workplace.folder.encoded(job.id, key))
    write_views(study.standardized, organs, workplace.folder.encoded(job.id, key))
    rows = [row for row in study.standardized.rows if organs.labels_of(row.organ)]
    workplace.jobs.note(job.id, "segment", study.masks)
    workplace.jobs.note(job.id, "encode", f"{len(study.vectors.vectors)} organs")
    workplace.jobs.tell(job.id, organs=len(rows), checks=_plain(study.standardized.checks))


def _stored(job: Job, workplace: Workplace) -> bool:
    """A study of the server's store: it is standardised already."""
    begin = _begin(job, workplace)
    begin("read")
    assert workplace.store is not None
    reader = workplace.store.study(job.about["study"])
    rows = tuple(organ_row(row) for row in reader.rows("organs"))
    made = Standardized(reader.image(), reader.organs(), reader.affine, rows, regions=reader.regions())
    write_pictures(stills(made.image, made.spacing_mm), workplace.folder.pictures(job.id))
    workplace.jobs.tell(job.id, image=_size_of(made.image, made.spacing_mm))
    begin("encode")
    for key, model in workplace.models.items():
        study = EncodedStudy("stored study", "the store", made)
        _keep(job, workplace, key, model.pipeline.encode_organs(study, cut_off=model.pipeline.modality.has_border))
    return True


def _size_of(pixels: np.ndarray, spacing_mm: tuple[float, float, float]) -> dict[str, Any]:
    if pixels.ndim == 3:
        return {"voxels": list(pixels.shape), "spacing_mm": [round(edge, 3) for edge in spacing_mm]}
    return {"pixels": list(pixels.shape)}


def stills(image: np.ndarray, spacing_mm: tuple[float, float, float]) -> Sequence[Picture]:
    """Still pictures of an image as it was read: three slices, or the radiograph."""
    if image.ndim == 3:
        return slice_pictures(image, spacing_mm)
    return (cxr_picture(image, float(np.max(image)), longest_px=640, subject="radiograph"),)


def write_pictures(pictures: Sequence[Picture], folder: Path) -> None:
    """Write pictures as PNG, by their planes."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = PLANES if len(pictures) > 1 else ("radiograph",)
    for name, picture in zip(names, pictures, strict=True):
        (folder / f"{name}.png").write_bytes(picture_bytes(picture))


def _plain(checks: Checks) -> list[dict[str, Any]]:
    return [asdict(check) for check in _quiet(checks)]


def _quiet(checks: Checks) -> Checks:
    return tuple(
        QualityCheck(one.code, one.severity, _REWORDED.get(one.code, ("",))[0] or one.message, one.value)
        for one in checks
    )


def _reworded(error: CTGLIPError) -> CTGLIPError:
    """As it is said to people who look at a page."""
    message, fix = _REWORDED.get(error.code, ("", error.fix.partition(" For one query:")[0]))
    return CTGLIPError(message or error.message, code=error.code, fix=fix)
