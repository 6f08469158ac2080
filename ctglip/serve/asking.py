"""Answers about uploads that are encoded: from vectors on the disk, so that no question waits for another scan."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ctglip.errors import CTGLIPError, ModelError
from ctglip.files import read_json
from ctglip.inference.answers import Answer, Answers
from ctglip.inference.encoded_study import EncodedStudy, load_study
from ctglip.inference.page import page_answers, unseen_note
from ctglip.pages.wording import share
from ctglip.serve.folder import ServeFolder
from ctglip.serve.models import ServedModel
from ctglip.serve.viewing import read_view, write_map
from ctglip.types import OrganRow

REMINDER = "Research software: no number here is a diagnosis."
_KEPT = 32


class Asking:
    """Answers questions for many people at once.

    Args:
        folder: of the server.
        models: by their keys.
    """

    def __init__(self, folder: ServeFolder, models: Mapping[str, ServedModel]) -> None:
        self.folder, self.models = folder, models
        self._encoded: OrderedDict[tuple[str, str], EncodedStudy] = OrderedDict()
        self._lock, self._maps = threading.Lock(), threading.Lock()

    def warm(self) -> None:
        """Embed the prompts of all that the models were taught, so that the first question is as quick as the next."""
        for model in self.models.values():
            with self._lock:
                pipeline = model.pipeline
                pipeline.scorer.sides([(organ, name) for organ, names in pipeline.trained.items() for name in names])
                pipeline.understood(["any abnormality?"])

    def model(self, key: str) -> ServedModel:
        """The model of a key; the first for an empty one.

        Raises:
            ModelError: code ``no_model``.
        """
        key = key or next(iter(self.models))
        if key not in self.models:
            raise ModelError("There is no such model.", code="no_model", fix=f"Models: {', '.join(self.models)}.")
        return self.models[key]

    def study(self, scan_id: str, key: str) -> EncodedStudy:
        """An upload as a model encoded it; the last few stay open.

        Raises:
            ModelError: code ``not_encoded``.
        """
        key = self.model(key).key
        with self._lock:
            found = self._encoded.pop((scan_id, key), None)
            if found is None:
                found = load_study(self.folder.encoded(scan_id, key))
            self._encoded[scan_id, key] = found
            while len(self._encoded) > _KEPT:
                self._encoded.popitem(last=False)
        return found

    def forget(self, scan_id: str) -> None:
        """An upload is deleted."""
        with self._lock:
            for known in [known for known in self._encoded if known[0] == scan_id]:
                del self._encoded[known]

    def ask(self, scan_id: str, key: str, questions: Sequence[str], sentences: Sequence[str] = ()) -> dict[str, Any]:
        """Answer questions, and compare sentences of one's own.

        Raises:
            ModelError: code ``not_encoded``, ``no_model``.
            VocabularyError: nothing of it is understood.
        """
        model, study = self.model(key), self.study(scan_id, key)
        with self._lock:
            found = model.pipeline.answer(study, questions, prompts=sentences)
        rows = [_plain(found, answer, row) for answer, row in zip(found.answers, page_answers(found), strict=True)]
        notes = [*found.notes, *unseen_note(found)]
        return {"model": model.key, "answers": rows, "notes": notes, "reminder": REMINDER}

    def organs(self, scan_id: str, key: str) -> dict[str, Any]:
        """The organs of an upload: those that are drawn, and those that can be asked about."""
        model, study = self.model(key), self.study(scan_id, key)
        dictionary = model.pipeline.dictionaries.organs
        view = read_view(self.folder.encoded(scan_id, model.key))
        shown = {one["organ"]: one for one in view["organs"]}
        rows = {row.organ: row for row in study.standardized.rows}
        encoded = [name for name in model.pipeline.known if name in study.vectors.vectors]
        names = list(dict.fromkeys((*encoded, *(name for name in rows if name in shown))))
        organs = [
            {
                "organ": name,
                "display": dictionary[name].display,
                "askable": name in study.vectors.vectors,
                "reason": study.vectors.reasons.get(name, ""),
                "mark": study.vectors.marks.get(name, ""),
                **_measures(rows.get(name)),
                "shown": shown.get(name),
            }
            for name in names
        ]
        known = {name: reason for name, reason in study.vectors.reasons.items() if name not in names}
        return {
            "model": model.key,
            "masks": study.masks,
            "shape": view.get("shape"),
            "window": view.get("window"),
            "size": view.get("size"),
            "organs": sorted(organs, key=lambda one: (not one["askable"], one["display"])),
            "absent": [{"display": dictionary[name].display, "reason": reason} for name, reason in known.items()],
            "checks": [asdict(check) for check in study.standardized.checks],
        }

    def findings(self, scan_id: str, key: str, organ: str) -> dict[str, Any]:
        """All that a model was taught of an organ, the most likely first.

        Raises:
            ModelError: code ``no_organ``: the dictionary does not know it.
        """
        organs = self.model(key).pipeline.dictionaries.organs
        if organ not in organs:
            raise ModelError(f"There is no organ {organ!r}.", code="no_organ", fix="Choose one of the list.")
        return self.ask(scan_id, key, [organs[organ].display])

    def draft(self, scan_id: str, key: str) -> dict[str, Any]:
        """A draft of the report of an upload.

        Raises:
            ModelError: code ``not_encoded``, ``no_model``; ``no_reports``: the model was not tuned to write.
        """
        model, study = self.model(key), self.study(scan_id, key)
        if model.drafter is None:
            raise ModelError(
                f"The model {model.name} writes no reports.",
                code="no_reports",
                fix="Serve what ctglip finetune --config finetune/ct_report wrote.",
            )
        with self._lock:
            found = model.drafter.draft_of(study)
        value, shown = found.to_json(), ("disclaimer", "findings", "impression", "organs")
        return {"model": model.key, **{name: value[name] for name in shown}}

    def heat_map(self, scan_id: str, key: str, organ: str, abnormality: str) -> tuple[Path, dict[str, Any]]:
        """Where an answer comes from: a file for NiiVue (radiographs: PNG), and where its peak is. Made once.

        Raises:
            ModelError: code ``no_map``: there is no such answer.
        """
        model = self.model(key)
        folder = self.folder.encoded(scan_id, model.key)
        suffix = ".nii.gz" if model.pipeline.modality.name == "ct" else ".png"
        path = folder / "maps" / f"{organ}-{abnormality}{suffix}"
        dictionaries = model.pipeline.dictionaries
        if organ not in dictionaries.organs or abnormality not in dictionaries.abnormalities:
            raise ModelError("There is no such answer.", code="no_map", fix="Choose a finding of the list.")
        with self._maps:
            if not path.is_file():
                self._make_map(scan_id, model, organ, abnormality, folder)
        return path, read_json(path.with_name(path.name.removesuffix(suffix) + ".json"))

    def _make_map(self, scan_id: str, model: ServedModel, organ: str, abnormality: str, folder: Path) -> None:
        study, pipeline = self.study(scan_id, model.key), model.pipeline
        names = pipeline.dictionaries
        question = f"{names.organs[organ].display}: {names.abnormalities[abnormality].display}"
        with self._lock:
            found = pipeline.answer(study, [question])
            maps = list(pipeline.heat_maps(found, {(organ, abnormality)}))
        if not maps:
            raise ModelError(
                "This answer has no heat map.", code="no_map", fix=found.answers[0].reason or "Choose another finding."
            )
        write_map(maps[0], study.standardized, folder)

    def completions(self, key: str) -> list[str]:
        """Questions that a model was taught, in the dictionary's words."""
        names = self.model(key).pipeline.dictionaries
        pairs = self.model(key).pipeline.screened()
        organs = dict.fromkeys(names.organs[organ].display for organ, _ in pairs)
        return [
            "any abnormality?",
            *organs,
            *(f"{names.organs[organ].display}: {names.abnormalities[name].display}" for organ, name in pairs),
        ]


def _measures(row: OrganRow | None) -> dict[str, Any]:
    if row is None:
        return {"volume_ml": None, "mean_hu": None, "sd_hu": None, "cut_off": False}
    return {
        "volume_ml": round(row.volume_ml, 1),
        "mean_hu": round(row.mean_hu, 1),
        "sd_hu": None if row.sd_hu is None else round(row.sd_hu, 1),
        "cut_off": row.touches_border,
    }


def _plain(found: Answers, answer: Answer, row: Any) -> dict[str, Any]:
    """An answer as an API and a page have it: names and displays, the number and its words, what speaks against it."""
    rest = {name: value for name, value in asdict(row).items() if name not in ("organ", "abnormality")}
    return {
        **rest,
        "organ": answer.organ,
        "abnormality": answer.abnormality,
        "organ_display": found.display(answer.organ),
        "abnormality_display": found.display(answer.abnormality),
        "words": share(answer.probability) if answer.probability is not None else "",
        "taught": answer.taught,
        "familiar": answer.familiar,
        "understood": answer.understood,
        "sentence": answer.similarity is not None,
    }


def status_of(error: CTGLIPError) -> int:
    """The HTTP status of an error of the user's."""
    return _STATUS.get(error.code, 400)


_STATUS = {
    "no_scan": 404, "no_map": 404, "no_model": 404, "no_organ": 404, "no_study": 404, "no_reports": 404,
    "not_encoded": 409, "wrong_state": 409, "upload_too_large": 413, "unknown_question": 422, "no_question": 422,
    "vocabulary": 422, "busy": 503, "disk_full": 507, "upload_stopped": 408,
}  # fmt: skip
