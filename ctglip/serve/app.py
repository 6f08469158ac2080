"""The web application: pages, the API, and the errors of both."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException

from ctglip import __version__
from ctglip.errors import CTGLIPError
from ctglip.pages import __file__ as pages_file
from ctglip.pages.viewer import niivue_module
from ctglip.serve.asking import REMINDER, status_of
from ctglip.serve.cohort_routes import cohort_routes
from ctglip.serve.question_routes import question_routes
from ctglip.serve.scan_routes import scan_routes
from ctglip.serve.security import COOKIE, refused
from ctglip.serve.serving import Serving

_HERE = Path(__file__).parent
_PAGES = Path(pages_file).parent / "templates"
_MOST_LOGIN_BYTES = 4096


def create_app(serving: Serving) -> FastAPI:
    """The application of a server.

    Args:
        serving: what it works with; ``server.serve`` makes one.
    """

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        tidier = threading.Thread(target=_tidy, args=(serving,), daemon=True)
        tidier.start()
        yield
        serving.ended.set()
        tidier.join(timeout=5)

    app = FastAPI(
        title="ctglip serve",
        version=__version__,
        description=f"Drop a scan, ask a model about it. {REMINDER}",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=lifespan,
    )
    app.middleware("http")(serving.guard)
    app.add_exception_handler(CTGLIPError, _said)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _unknown)
    app.add_exception_handler(Exception, _ours)
    app.include_router(scan_routes(serving))
    app.include_router(question_routes(serving))
    app.include_router(cohort_routes(serving))
    app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")
    _add_pages(app, serving)
    return app


def _tidy(serving: Serving) -> None:
    while True:
        serving.tidy()
        if serving.ended.wait(60):
            return


def _add_pages(app: FastAPI, serving: Serving) -> None:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )

    @app.get("/", include_in_schema=False)
    def index() -> HTMLResponse:
        return HTMLResponse(environment.get_template("index.html").render(version=__version__, reminder=REMINDER))

    @app.get("/api", include_in_schema=False)
    def reference() -> HTMLResponse:
        page = environment.get_template("reference.html")
        return HTMLResponse(page.render(version=__version__, api=app.openapi(), reminder=REMINDER))

    @app.get("/pages.css", include_in_schema=False)
    def style() -> Response:
        return FileResponse(_PAGES / "style.css", media_type="text/css")

    @app.get("/niivue-host.js", include_in_schema=False)
    def niivue_host() -> Response:
        return FileResponse(_PAGES / "niivue.js", media_type="text/javascript")

    @app.get("/niivue.js", include_in_schema=False)
    def niivue() -> Response:
        path = niivue_module()
        if path is None:
            return refused(404, "The package ipyniivue is not installed.", "missing_extra")
        return FileResponse(path, media_type="text/javascript", headers={"Cache-Control": "max-age=86400"})

    @app.get("/health", include_in_schema=False)
    def health() -> dict[str, bool]:
        return {"alive": True}

    @app.get("/login", include_in_schema=False)
    def login_page() -> Response:
        if not serving.guard.asks_for_token:
            return RedirectResponse("/", status_code=303)
        return HTMLResponse(environment.get_template("login.html").render(version=__version__, reminder=REMINDER))

    @app.post("/login", include_in_schema=False)
    async def login(request: Request) -> Response:
        """The token for the cookie of a browser; over TLS the cookie stays there."""
        body = b""
        async for block in request.stream():
            body += block
            if len(body) > _MOST_LOGIN_BYTES:
                break
        cookie = serving.guard.login(body.decode(errors="replace"))
        if cookie is None:
            return refused(403, "This is not the token.", "bad_token")
        response = JSONResponse({"known": True})
        secure = request.scope["scheme"] == "https"
        response.set_cookie(COOKIE, cookie, httponly=True, samesite="strict", secure=secure)
        return response


async def _said(_request: Request, error: Exception) -> Response:
    assert isinstance(error, CTGLIPError)
    return refused(status_of(error), error.message, error.code, error.fix)


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return refused(422, f"{where}: {first['msg']}.", "bad_request", "See /api.")


async def _unknown(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).name.lower()  # not_found, method_not_allowed
    return refused(error.status_code, f"{error.detail}.", code, "See /api.")


async def _ours(_request: Request, _error: Exception) -> Response:
    return refused(500, "Something went wrong here.", "internal", "Try again; if it stays so, report it.")
