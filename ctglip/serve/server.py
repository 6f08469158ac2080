"""Running the server: the private folder, the models, the worker, and a clean end."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import uvicorn

from ctglip.config import validate
from ctglip.errors import CTGLIPError
from ctglip.serve.app import create_app
from ctglip.serve.asking import Asking
from ctglip.serve.folder import ServeFolder, default_folder
from ctglip.serve.jobs import JobStore
from ctglip.serve.models import ServedModel, load_models
from ctglip.serve.security import Guard, is_loopback, read_token
from ctglip.serve.serving import Serving
from ctglip.serve.uploads import UploadLimits
from ctglip.serve.worker import WorkerHold
from ctglip.store.tables import Store


@dataclass(frozen=True)
class ServeOptions:
    """How a server is run.

    Attributes:
        runs: of the models; the first answers where none is named.
        store: whose studies can be opened.
        host, port: where it listens; port 0: any that is free.
        folder: private, for all that is uploaded.
        token_file: with the token that each request must show; needed where others than this machine can ask.
        keep_hours: after which uploads are deleted; None: never.
        limits: of uploads.
    """

    runs: Sequence[Path]
    store: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8765
    folder: Path = field(default_factory=default_folder)
    token_file: Path | None = None
    keep_hours: float | None = 24.0
    limits: UploadLimits = field(default_factory=UploadLimits)


def serve(options: ServeOptions, started: Callable[[str], object] = str) -> None:
    """Serve until the process is interrupted.

    Args:
        options: how.
        started: called with the address once it listens.

    Raises:
        CTGLIPError: ``needs_token``: another address than this machine's without a token; ``port_in_use``; ``in_use``:
            another server has the folder; and what is wrong with runs, store or token file.
    """
    os.umask(0o077)
    if not is_loopback(options.host) and options.token_file is None:
        raise CTGLIPError(
            f"At {options.host} others than you could ask, so a token is needed.",
            code="needs_token",
            fix="Add --token-file FILE, or leave --host out.",
        )
    guard = Guard(None if options.token_file is None else read_token(options.token_file))
    listening = _listen(options.host, options.port)
    folder = ServeFolder(options.folder)
    folder.lock()
    try:
        models = load_models(options.runs)
        check_store(options.store, models)
        jobs = JobStore(folder.jobs)
        worker = WorkerHold(folder, jobs, options.runs, options.store, options.limits)
        serving = Serving(
            folder, jobs, Asking(folder, models), options.limits, guard, options.keep_hours, options.store
        )
        threading.Thread(target=serving.asking.warm, daemon=True).start()
        worker.start()
        try:
            _run(serving, listening, started)
        finally:
            worker.close()
    finally:
        folder.unlock()
        listening.close()


def check_store(path: Path | None, models: dict[str, ServedModel]) -> None:
    """The models read what the store holds.

    Raises:
        StoreError: it is none.
        CTGLIPError: code ``other_recipe``: its studies were made in another way than a model's.
    """
    if path is None:
        return
    info = Store.open(path).info
    for model in models.values():
        modality, recipe = model.pipeline.modality, model.pipeline.recipe
        differs = ["modality"]
        if info.modality == modality.name:
            stored = validate(modality.recipe, info.recipe, "the store's recipe")  # of before it may lack a setting
            differs = [name for name in recipe.trained if getattr(stored, name) != getattr(recipe, name)]
        if differs:
            raise CTGLIPError(
                f"The store's studies are not as {model.name} reads them ({', '.join(differs)}).",
                code="other_recipe",
                fix="Serve the store that the run was trained on, or one of the same recipe.",
            )


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise CTGLIPError(
            f"Port {port} of {host} cannot be had: {error.strerror}.", code="port_in_use", fix="Choose another --port."
        ) from error
    found.setblocking(False)
    return found


def _run(serving: Serving, listening: socket.socket, started: Callable[[str], object]) -> None:
    """Answer requests until Ctrl-C or SIGTERM; open event streams are closed then."""
    host, port = listening.getsockname()[:2]

    class Server(uvicorn.Server):
        """Says where it listens once it does, and ends all event streams when it is told to end."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started(f"http://{f'[{host}]' if ':' in host else host}:{port}/")

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            """Ends by itself: a signal is not raised again once all is closed; a second one does not wait."""
            del sig, frame
            self.force_exit = self.should_exit
            self.should_exit = True

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            serving.ended.set()
            await super().shutdown(sockets)

    config = uvicorn.Config(
        create_app(serving), log_level="critical", access_log=False, server_header=False, date_header=False,
        timeout_graceful_shutdown=3, timeout_keep_alive=30, limit_concurrency=200,
        h11_max_incomplete_event_size=1 << 16,
    )  # fmt: skip
    Server(config).run(sockets=[listening])
