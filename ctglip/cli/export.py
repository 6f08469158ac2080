"""``ctglip export``: a run's model as one folder for another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctglip.cli.console import result


def export(
    run: Annotated[Path, typer.Argument(help="A run or its model/ folder.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; it loads on another machine with nothing else.")],
    reference_text_encoder: Annotated[
        bool, typer.Option("--reference-text-encoder", help="Store the text encoder's name and hash, not its weights.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write the released form of a model: safetensors and JSON, with its dictionaries and recipe."""
    from ctglip.errors import CTGLIPError
    from ctglip.models.release import load_release, save_release

    if out.exists() and not (out / "model.safetensors").is_file() and (out.is_file() or any(out.iterdir())):
        raise CTGLIPError(f"{out} exists and is no model folder; it is left alone.", fix="Name a new folder.")
    save_release(out, load_release(run), reference_text_encoder=reference_text_encoder)
    files = sorted(file for file in out.rglob("*") if file.is_file())
    size = sum(file.stat().st_size for file in files)
    result(
        {"out": str(out), "files": [str(f.relative_to(out)) for f in files], "bytes": size},
        as_json,
        f"{len(files)} files, {size / 1e6:.1f} MB in {out}.",
    )
