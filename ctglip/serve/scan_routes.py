"""The API of uploads: begin one, send its files, start it, follow it, choose, cancel, delete."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, Response, StreamingResponse
from pydantic import BaseModel, Field

from ctglip import __version__
from ctglip.ct.segmentation import missing_weights
from ctglip.errors import CTGLIPError
from ctglip.pages.pictures import PLANES
from ctglip.serve.asking import REMINDER
from ctglip.serve.jobs import ENDED, Job
from ctglip.serve.serving import Serving
from ctglip.serve.uploads import FileRole

_WATCH_S = 0.2
_ALIVE_S = 15.0


class SeriesChoice(BaseModel):
    """Which of an upload's series is read: its place in the list, from 0."""

    series: int = Field(ge=0, le=10_000)


def scan_routes(serving: Serving) -> APIRouter:
    """The routes of one server."""
    router = APIRouter(prefix="/api", tags=["scans"])
    _add_reading(router, serving)
    _add_changing(router, serving)
    return router


def _add_reading(router: APIRouter, serving: Serving) -> None:
    jobs, folder = serving.jobs, serving.folder

    @router.get("/server", summary="What this server is, its models, and the token of changes")
    def server() -> dict[str, Any]:
        """All that the page wants to know before it shows anything."""
        return {
            "version": __version__,
            "reminder": REMINDER,
            "token": serving.guard.csrf,
            "models": [model.about() for model in serving.asking.models.values()],
            "store": serving.store is not None,
            "keep_hours": serving.keep_hours,
            "limits": asdict(serving.limits),
            "segmenter": not missing_weights("fast"),
        }

    @router.get("/scans", summary="All uploads, the newest first")
    def scans() -> list[dict[str, Any]]:
        return [_plain(job) for job in jobs.all()]

    @router.get("/scans/{scan_id}", summary="One upload: its state, its steps, what is known of it")
    def scan(scan_id: str) -> dict[str, Any]:
        return _plain(jobs.get(scan_id))

    @router.get("/scans/{scan_id}/events", summary="The same whenever it changes, as server-sent events")
    async def events(scan_id: str, request: Request) -> StreamingResponse:
        await asyncio.to_thread(jobs.get, scan_id)
        return StreamingResponse(
            _events(serving, scan_id, request), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
        )

    @router.get("/scans/{scan_id}/pictures/{plane}.png", summary="A still: axial, coronal, sagittal, radiograph")
    def picture(scan_id: str, plane: str) -> Response:
        path = folder.pictures(scan_id) / f"{plane}.png"
        if plane not in (*PLANES, "radiograph") or not path.is_file():
            raise CTGLIPError("There is no such picture.", code="no_map")
        return FileResponse(path, media_type="image/png")


def _add_changing(router: APIRouter, serving: Serving) -> None:
    jobs, folder = serving.jobs, serving.folder

    def in_state(scan_id: str, *states: str) -> Job:
        job = jobs.get(scan_id)
        if job.state not in states:
            raise CTGLIPError(f"The scan is {job.state}.", code="wrong_state", fix="Look at its state first.")
        return job

    @router.post("/scans", summary="Begin an upload", status_code=201)
    def begin() -> dict[str, Any]:
        return _plain(jobs.get(serving.new_scan()))

    @router.put("/scans/{scan_id}/files", summary="Send one file; its bytes are the body", status_code=201)
    async def send(
        scan_id: str,
        request: Request,
        name: Annotated[str, Query(max_length=1000, description="of the file; only its suffix is kept")],
        role: FileRole = "scan",
        replace: Annotated[bool, Query(description="delete the files of the role that were sent before")] = False,
    ) -> dict[str, Any]:
        """Files come in any order; those of an upload that failed or was cancelled are read at its next start."""
        await asyncio.to_thread(in_state, scan_id, "uploading", "failed", "cancelled")
        size = await serving.intake.receive(request.stream(), folder.uploaded(scan_id, role), name, role, replace)
        return {"bytes": size}

    @router.post("/scans/{scan_id}/start", summary="All files are there: wait to be read")
    def start(scan_id: str) -> dict[str, Any]:
        in_state(scan_id, "uploading", "failed", "cancelled")
        if not folder.uploaded(scan_id, "scan").is_dir() and jobs.get(scan_id).kind == "upload":
            raise CTGLIPError("No scan was uploaded.", code="wrong_state", fix="Send its files first.")
        serving.check_queue()
        jobs.queue(scan_id)
        return _plain(jobs.get(scan_id))

    @router.post("/scans/{scan_id}/series", summary="Choose one of several series")
    def choose(scan_id: str, chosen: SeriesChoice) -> dict[str, Any]:
        job = in_state(scan_id, "choose")
        if chosen.series >= len(job.about.get("series", ())):
            raise CTGLIPError("There is no such series.", code="bad_request", fix="Choose one of the list.")
        jobs.queue(scan_id, chosen.series)
        return _plain(jobs.get(scan_id))

    @router.post("/scans/{scan_id}/cancel", summary="Work on it no longer")
    def cancel(scan_id: str) -> dict[str, Any]:
        in_state(scan_id, "uploading", "queued", "running", "choose")
        jobs.cancel(scan_id)
        return _plain(jobs.get(scan_id))

    @router.delete("/scans/{scan_id}", summary="Delete it and all that was made of it")
    def delete(scan_id: str) -> dict[str, Any]:
        jobs.get(scan_id)
        serving.delete(scan_id)
        return {"deleted": scan_id}


def _plain(job: Job) -> dict[str, Any]:
    found = asdict(job)
    found["step_seconds"] = round(sum(step.seconds for step in job.steps), 3)
    return found


async def _events(serving: Serving, scan_id: str, request: Request) -> AsyncIterator[str]:
    """An event whenever the upload changes, until nothing more happens by itself; a comment now and then."""
    version, silent = -1, 0.0
    while not await request.is_disconnected() and not serving.ended.is_set():
        try:
            job = await asyncio.to_thread(serving.jobs.get, scan_id)
        except CTGLIPError:
            yield "event: deleted\ndata: {}\n\n"
            return
        if job.version != version:
            version, silent = job.version, 0.0
            yield f"event: scan\ndata: {json.dumps(_plain(job))}\n\n"
            if job.state in ENDED:
                return
        elif silent >= _ALIVE_S:
            silent = 0.0
            yield ": still there\n\n"
        await asyncio.sleep(_WATCH_S)
        silent += _WATCH_S
