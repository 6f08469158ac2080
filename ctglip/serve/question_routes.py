"""The API of questions: ask, organs and their findings, heat maps, what the viewer shows."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, Field

from ctglip.errors import CTGLIPError
from ctglip.serve.asking import Asking
from ctglip.serve.serving import Serving

_Text = Annotated[str, Field(min_length=1, max_length=500)]
_Name = Annotated[str, Query(pattern=r"^[a-z0-9_]{1,100}$")]
_Model = Annotated[str, Query(pattern=r"^(m\d{1,3})?$", description="key of a model; the first by default")]
_VIEWS = {"image.nii.gz": "application/gzip", "labels.nii.gz": "application/gzip", "image.png": "image/png"}


class AskedQuestions(BaseModel):
    """What is asked of an upload.

    Attributes:
        questions: "liver: fatty liver", "gallstones?", "spleen".
        sentences: of one's own, "liver: The liver shows a large mass.": a similarity, no probability.
        model: key of the model; the first by default.
    """

    questions: list[_Text] = Field(default_factory=list, max_length=100)
    sentences: list[_Text] = Field(default_factory=list, max_length=20)
    model: str = Field(default="", pattern=r"^(m\d{1,3})?$")


def question_routes(serving: Serving) -> APIRouter:
    """The routes of one server."""
    router = APIRouter(prefix="/api", tags=["questions"])

    def encoded(scan_id: str) -> Asking:
        """Answers about an upload that all models have encoded; one that is read once more is refused until it is."""
        if serving.jobs.get(scan_id).state != "ready":
            raise CTGLIPError("The scan is not encoded.", code="not_encoded", fix="Wait until it is.")
        return serving.asking

    @router.post("/scans/{scan_id}/ask", summary="Answer questions about an upload that is encoded")
    def ask(scan_id: str, body: AskedQuestions) -> dict[str, Any]:
        return encoded(scan_id).ask(scan_id, body.model, body.questions, body.sentences)

    @router.get("/completions", summary="Questions that a model was taught")
    def completions(model: _Model = "") -> list[str]:
        return serving.asking.completions(model)

    @router.get("/scans/{scan_id}/organs", summary="The organs of an upload: volume, HU, where they are")
    def organs(scan_id: str, model: _Model = "") -> dict[str, Any]:
        return encoded(scan_id).organs(scan_id, model)

    @router.get("/scans/{scan_id}/findings", summary="All that a model was taught of an organ, ranked")
    def findings(scan_id: str, organ: _Name, model: _Model = "") -> dict[str, Any]:
        return encoded(scan_id).findings(scan_id, model, organ)

    @router.get(
        "/scans/{scan_id}/report", summary="A draft of the report, for research, by a model that was tuned to write"
    )
    def report(scan_id: str, model: _Model = "") -> dict[str, Any]:
        return encoded(scan_id).draft(scan_id, model)

    @router.get("/scans/{scan_id}/map", summary="Where an answer comes from: the peak of its heat map")
    def about_map(scan_id: str, organ: _Name, abnormality: _Name, model: _Model = "") -> dict[str, Any]:
        return encoded(scan_id).heat_map(scan_id, model, organ, abnormality)[1]

    @router.get("/scans/{scan_id}/map/file", summary="The heat map: gzipped NIfTI 0 to 255; of a radiograph PNG")
    def map_file(scan_id: str, organ: _Name, abnormality: _Name, model: _Model = "") -> Response:
        path = encoded(scan_id).heat_map(scan_id, model, organ, abnormality)[0]
        return FileResponse(path, media_type="image/png" if path.suffix == ".png" else "application/gzip")

    @router.get("/scans/{scan_id}/views/{name}", summary="image.nii.gz, labels.nii.gz; of a radiograph image.png")
    def view(scan_id: str, name: str, model: _Model = "") -> Response:
        key = encoded(scan_id).model(model).key
        path = serving.folder.encoded(scan_id, key) / name
        if name not in _VIEWS or not path.is_file():
            raise CTGLIPError("There is no such view.", code="no_map")
        return FileResponse(path, media_type=_VIEWS[name])

    return router
