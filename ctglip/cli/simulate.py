"""``ctglip simulate``: a cohort of simulated studies with known truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ctglip.cli.console import AsJson, progress, result
from ctglip.places import writable_folder


def simulate(
    out: Annotated[
        Path,
        typer.Argument(
            callback=writable_folder, help="Folder to write: cohort.csv, truth.csv, images/, masks/, montage.png."
        ),
    ],
    studies: Annotated[int, typer.Option(min=1, help="How many studies.")] = 100,
    seed: Annotated[int, typer.Option(help="Same seed, same cohort.")] = 0,
    level: Annotated[
        Literal["easy", "hard"],
        typer.Option(help="hard: all that real scans, masks and reports are troubled by; easy: none of it."),
    ] = "hard",
    template: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="A real CT and its TotalSegmentator masks to deform, in place of the built-in anatomy."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Simulation settings (YAML).")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="Change a setting: key=value.")] = None,
    radiographs: Annotated[
        bool, typer.Option("--cxr", help="Project the bodies to chest radiographs, with findings and impression.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Simulate CT studies, or chest radiographs, with reports and a truth table."""
    from ctglip.simulation.cohort import simulate_cohort
    from ctglip.simulation.cxr import CxrSettings
    from ctglip.simulation.levels import level_settings

    settings = level_settings(level, config, changes or ())
    with progress("Simulating studies") as report:
        table = simulate_cohort(
            out, studies, seed, settings, template, workers, report, CxrSettings() if radiographs else None
        )
    result(
        {"cohort": str(table), "truth": str(out / "truth.csv"), "studies": studies},
        as_json,
        f"{studies} studies in {table}; the truth is in {out / 'truth.csv'}, pictures in {out / 'montage.png'}.",
    )
