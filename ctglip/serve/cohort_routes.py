"""The API of the server's store: its studies page by page, and opening one as if it had been uploaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import polars as pl
from fastapi import APIRouter, Query

from ctglip.errors import CTGLIPError
from ctglip.files import check_id
from ctglip.serve.serving import Serving
from ctglip.store.parts import scan_table, stamp

_SHOWN = ("study_id", "patient_id", "split", "age", "sex", "scanner", "view", "phase", "organs", "warnings", "findings")
_MOST_NAMED = 12
_WARNING = r'"severity": ?"(warning|error)"'
SortOrder = Literal["up", "down"]
_Words = Annotated[str, Query(max_length=200, description="words that a study's id or findings hold")]


class StudyTable:
    """The studies of a store with what is known of each, read lazily: a page costs a scan of some columns.

    Args:
        path: of the store.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[float, ...] = ()
        self._frame = pl.DataFrame()

    def frame(self) -> pl.DataFrame:
        """One row a study; made anew when the store has changed."""
        current = stamp(self.path)
        if current != self._stamp:
            self._frame, self._stamp = _joined(self.path), current
        return self._frame

    def holds(self, study_id: str) -> bool:
        """Whether there is such a study."""
        return study_id in self.frame()["study_id"]

    def page(self, words: str, sort: str, order: SortOrder, page: int, size: int) -> dict[str, Any]:
        """Some studies in an order.

        Args:
            words: all of them stand in a study's id or findings; none: all studies.
            sort: a column.
            page: from 0.
            size: studies on a page.

        Raises:
            CTGLIPError: code ``bad_request``: there is no such column.
        """
        frame = self.frame()
        if sort not in frame.columns:
            raise CTGLIPError(
                f"There is no column {sort!r}.", code="bad_request", fix=f"Columns: {', '.join(frame.columns)}."
            )
        found = frame.lazy()
        text = pl.col("study_id") + " " + pl.col("findings")
        for word in words.lower().split():
            found = found.filter(text.str.to_lowercase().str.contains(word, literal=True))
        total = found.select(pl.len()).collect().item()
        rows = found.sort(sort, "study_id", descending=[order == "down", False], nulls_last=True)
        rows = rows.slice(page * size, size).collect()
        return {"total": total, "page": page, "size": size, "columns": frame.columns, "rows": rows.to_dicts()}


def _joined(root: Path) -> pl.DataFrame:
    counts = scan_table(root, "organs").group_by("study_id").agg(organs=pl.len())
    splits = scan_table(root, "splits").select("study_id", stored_split="split")
    affirmed = scan_table(root, "findings").filter(
        (pl.col("status") == "affirmed") & pl.col("abnormality").is_not_null() & pl.col("organ").is_not_null()
    )
    named = (pl.col("organ") + ": " + pl.col("abnormality")).str.replace_all("_", " ")
    lists = affirmed.group_by("study_id").agg(findings=named.unique().sort().head(_MOST_NAMED).str.join("; "))
    frame = scan_table(root, "studies").join(counts, on="study_id", how="left")
    frame = frame.join(splits, on="study_id", how="left").join(lists, on="study_id", how="left")
    frame = frame.with_columns(split=pl.coalesce("stored_split", "split"))
    warnings = pl.col("checks").fill_null("").str.count_matches(_WARNING)
    found = frame.with_columns(pl.col("findings").fill_null(""), warnings=warnings).collect()
    columns = [name for name in _SHOWN if name in found.columns and not found[name].is_null().all()]
    return found.select(columns or ["study_id"])


def cohort_routes(serving: Serving) -> APIRouter:
    """The routes of one server."""
    router = APIRouter(prefix="/api/cohort", tags=["cohort"])
    table = None if serving.store is None else StudyTable(serving.store)

    def known() -> StudyTable:
        if table is None:
            raise CTGLIPError("This server has no store.", code="no_study", fix="Start it with --store STORE.")
        return table

    @router.get("", summary="Studies of the store, filtered and sorted, page by page")
    def cohort(
        words: _Words = "",
        sort: Annotated[str, Query(pattern=r"^[a-z_]{1,40}$")] = "study_id",
        order: SortOrder = "up",
        page: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
        size: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> dict[str, Any]:
        return known().page(words, sort, order, page, size)

    @router.post("/{study_id}/open", summary="Open a study as if it had been uploaded", status_code=201)
    def open_study(study_id: str) -> dict[str, Any]:
        if not known().holds(check_id(study_id)):
            raise CTGLIPError("There is no such study.", code="no_study", fix="Choose one of the list.")
        serving.check_queue()
        scan_id = serving.new_scan("stored", {"study": study_id})
        serving.jobs.queue(scan_id)
        return {"id": scan_id}

    return router
