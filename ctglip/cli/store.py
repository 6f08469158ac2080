"""``ctglip store``: what is in a store, whether it is sound, and a study back as NIfTI."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ctglip.cli.console import AsJson, progress, result
from ctglip.cli.group import CommandGroup
from ctglip.places import writable_folder

app = typer.Typer(cls=CommandGroup, help="Look into a store, verify it, export from it.", no_args_is_help=True)
StorePath = Annotated[Path, typer.Argument(help="The store's folder.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes on this machine (default 1).")]
RayAddress = Annotated[str | None, typer.Option("--ray", help="Address of a Ray cluster to join, or 'auto'.")]


@app.command()
def info(store: StorePath, workers: Workers = None, ray: RayAddress = None, as_json: AsJson = False) -> None:
    """Say what a store holds."""
    from ctglip.store.summary import summarize

    value = summarize(store, _workers(workers, ray), ray)
    lines = [f"{key:24} {entry}" for key, entry in value.items()]
    result(value, as_json, "\n".join(lines))


@app.command()
def verify(
    store: StorePath,
    repair: Annotated[
        bool, typer.Option(help="Rebuild the tables from the studies and drop half-written files.")
    ] = False,
    workers: Workers = None,
    ray: RayAddress = None,
    as_json: AsJson = False,
) -> None:
    """Re-check every checksum and invariant; exit code 1 when something is wrong and was not repaired."""
    from ctglip.store.tables import Store
    from ctglip.store.verify import verify as verify_store

    with progress("Verifying studies") as report:
        problems = verify_store(Store.open(store), repair, report, _workers(workers, ray), ray)
    lines = [f"{p.study_id or '-'}: {p.code}: {p.message}{' Repaired.' * p.repaired}" for p in problems]
    if not problems:
        lines = ["The store is sound."]
    elif not repair and any(p.study_id or p.code in ("leftover", "stale_table") for p in problems):
        lines.append("--repair removes damaged studies and leftovers and rebuilds the tables; nothing was changed.")
    elif any(p.study_id and p.repaired for p in problems):
        lines.append("Removed studies come back with the next ctglip preprocess.")
    result({"problems": [asdict(p) for p in problems], "repaired": repair}, as_json, "\n".join(lines))
    if any(not p.repaired for p in problems):
        raise typer.Exit(1)


def _workers(workers: int | None, ray: str | None) -> int:
    """How many processes work here.

    Raises:
        ConfigError: both were named.
    """
    from ctglip.errors import ConfigError

    if workers is not None and ray is not None:
        raise ConfigError("--workers and --ray exclude each other.", fix="Give one of them.")
    return workers or 1


@app.command()
def upgrade(store: StorePath, as_json: AsJson = False) -> None:
    """Divide the tables of a store of before, each of which is one file, into parts; other stores stay as they are."""
    from ctglip.files import exclusive
    from ctglip.store.tables import Store
    from ctglip.store.tables import upgrade as divide_tables

    opened = Store.open(store)
    with exclusive(store):
        divided = divide_tables(opened)
    text = f"The tables of {store} are in parts now." if divided else f"The tables of {store} are in parts already."
    result({"upgraded": divided}, as_json, text)


@app.command()
def export(
    store: StorePath,
    study: Annotated[str, typer.Argument(help="study_id")],
    out: Annotated[
        Path, typer.Option(callback=writable_folder, help="Folder for image.nii.gz, organs.nii.gz and organs.csv.")
    ],
    to: Annotated[str, typer.Option(help="Format.")] = "nifti",
    grid: Annotated[str, typer.Option(help="stored, or original: that of the scan as it came.")] = "stored",
    as_json: AsJson = False,
) -> None:
    """Write one study back as NIfTI with its organ table."""
    from ctglip.errors import CTGLIPError
    from ctglip.store.export import export_study
    from ctglip.store.tables import Store

    if to != "nifti":
        raise CTGLIPError(f"--to {to!r} is not a format that can be exported.", fix="Known: nifti.")
    if grid not in ("stored", "original"):
        raise CTGLIPError(f"--grid {grid!r} is no grid.", fix="Known: stored, original.")
    files = export_study(Store.open(store), study, out, "original" if grid == "original" else "stored")
    result({"files": [str(f) for f in files]}, as_json, "\n".join(str(f) for f in files))


@app.command()
def nnunet(
    store: StorePath,
    out: Annotated[Path, typer.Argument(callback=writable_folder, help="nnUNet_raw: DatasetNNN_NAME is made in it.")],
    target: Annotated[
        list[str],
        typer.Option(help="A class: an organ, or a drawn finding (liver:liver_metastasis). Repeatable, in order."),
    ],
    number: Annotated[int, typer.Option(min=1, max=999, help="Of the data set.")] = 501,
    name: Annotated[str, typer.Option(help="Of the data set.")] = "ctglip",
    run: Annotated[
        Path | None,
        typer.Option(help="Write the channels that this run's encoder sees, so that nnU-Net can start from it."),
    ] = None,
    undrawn: Annotated[
        str, typer.Option(help="A study without drawn findings: empty (it has none), or leave_out.")
    ] = "empty",
    as_json: AsJson = False,
) -> None:
    """Write a store of scans as nnU-Net's raw data, with the store's splits."""
    from ctglip.errors import CTGLIPError, ModelError
    from ctglip.files import check_id
    from ctglip.store.mask_classes import mask_classes
    from ctglip.store.nnunet import SPLITS, export_nnunet
    from ctglip.store.tables import Store
    from ctglip.vocabulary.organs import load_organs

    if undrawn not in ("empty", "leave_out"):
        raise CTGLIPError(f"--undrawn {undrawn!r} is neither empty nor leave_out.")
    windows = ()
    if run is not None:
        from ctglip.models.release import load_release

        release = load_release(run)
        if release.scans is None or release.reads_crops:
            raise ModelError(f"{run} reads crops of organs, and nnU-Net has no channel of their masks.",
                             code="channels", fix="Leave --run out, or name a run of whole scans.")  # fmt: skip
        windows = tuple((float(low), float(high)) for low, high in release.scans["windows_hu"])
    opened = Store.open(store)
    classes = mask_classes(target, opened, load_organs())
    with progress("Writing studies") as report:
        found = export_nnunet(
            opened,
            out,
            classes,
            number,
            check_id(name),
            windows,
            "empty" if undrawn == "empty" else "leave_out",
            report,
        )
    lines = [
        f"{found.folder}: {found.train} studies to train on, {found.val} to validate, {found.test} in imagesTs, "
        f"{len(found.left_out)} left out.",
        f"After nnUNetv2_plan_and_preprocess copy {SPLITS} into nnUNet_preprocessed/{Path(found.folder).name}: fold 0 "
        "is the store's split.",
    ]
    result(found.to_json(), as_json, "\n".join(lines))
