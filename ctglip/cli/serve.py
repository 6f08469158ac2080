"""``ctglip serve``: the models in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctglip.cli.console import err, out
from ctglip.resources import require


def serve(
    runs: Annotated[list[Path], typer.Argument(help="Runs or their model/ folders; the first answers by default.")],
    store: Annotated[Path | None, typer.Option(help="A store whose studies can be listed and opened.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8765,
    host: Annotated[str, typer.Option(help="Address to listen at; any but this machine's needs --token-file.")] = (
        "127.0.0.1"
    ),
    token_file: Annotated[
        Path | None, typer.Option(help="File (mode 600) with a token of 16 characters or more that users must show.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Private folder of uploads (default: serve in ctglip's folder of caches).")
    ] = None,
    keep: Annotated[float, typer.Option(min=0, help="Hours after which a scan is deleted; 0: never.")] = 24.0,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Open a local page on which scans are dropped, looked at and asked about.

    Nothing leaves this machine. What is uploaded lies in one private folder until it is deleted there, by its button or
    after --keep hours. Ctrl-C ends the server; what was being read goes on at the next start.
    """
    for module in ("fastapi", "uvicorn", "ipyniivue"):
        require(module, "serve")
    from ctglip.serve.folder import default_folder
    from ctglip.serve.server import ServeOptions
    from ctglip.serve.server import serve as run

    err.print("Loading models ...", highlight=False)

    def started(address: str) -> None:
        out.print(f"ctglip serves at {address}", highlight=False, soft_wrap=True)
        err.print("Ctrl-C ends it.", highlight=False)
        if open_page:
            typer.launch(address)

    run(ServeOptions(runs, store, host, port, folder or default_folder(), token_file, keep or None), started)
    err.print("Ended; scans that were being read go on at the next start.", highlight=False)
