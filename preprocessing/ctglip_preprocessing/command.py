"""``ctglip preprocess``: a cohort table in, a store out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctglip.files import plain_json
from ctglip.places import writable_folder

if TYPE_CHECKING:
    from ctglip.cohort import Cohort
    from ctglip_preprocessing.driver import Summary
    from ctglip_preprocessing.settings import PreprocessConfig


def preprocess(
    cohort: Annotated[Path, typer.Argument(help="The cohort table: CSV or parquet, one row a study.")],
    store: Annotated[
        Path, typer.Argument(callback=writable_folder, help="The store's folder; made when it is not there.")
    ],
    config: Annotated[
        str | None,
        typer.Option(help="A file, or a shipped config (default preprocess/organ_crops; see: ctglip config show)."),
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Change one setting, e.g. ct.crop_to_body=false.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option("--for", help="A released encoder (spectre, ct_fm, ...): spacing and HU as it wants them."),
    ] = None,
    columns: Annotated[Path | None, typer.Option(help="YAML column map, our_name: their_name.")] = None,
    organ_text: Annotated[
        Path | None,
        typer.Option(help="Sentences or findings by organ, for rows without a column organ_text (parse --out, --llm)."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes on this machine (default 1).")] = None,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster to join, or 'auto'.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed studies again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Bring a store up to date with a cohort. What is there already is not done again.

    A study that fails becomes a row of the journal and stops no other; it is tried again when its input or the recipe
    changes, or with --retry-failed. Ctrl-C lets the studies at work end; the same command goes on later. Look at
    STORE/quality.html when it is done.

    Exit code 0: every study of the cohort is in the store; 1: some failed, and the summary says why; 2: the command, a
    setting or the table is wrong, and nothing was done; 130: interrupted.
    """
    from ctglip.cohort import read_cohort
    from ctglip.errors import ConfigError
    from ctglip.modality import modality_of
    from ctglip_preprocessing.forecast import show_forecast
    from ctglip_preprocessing.organ_text import with_organ_text

    if workers is not None and ray is not None:
        raise ConfigError("--workers and --ray exclude each other.", fix="Give one of them.")
    settings = _settings(config, changes or (), encoder)
    table = read_cohort(cohort, columns)
    if organ_text is not None:
        table = with_organ_text(table, organ_text)
    if dry_run:
        show_forecast(table, store, modality_of(settings.recipe).name, as_json)
        return
    summary = _run(table, store, settings, workers or 1, ray, retry_failed)
    typer.echo(plain_json(summary.as_dict(), indent=2) if as_json else describe(summary))
    if summary.failed:
        raise typer.Exit(1)


def _run(
    table: Cohort, store: Path, settings: PreprocessConfig, workers: int, ray: str | None, retry_failed: bool
) -> Summary:
    """The whole run under a progress bar; the first Ctrl-C ends it with 130."""
    from rich.console import Console

    from ctglip_preprocessing.driver import preprocess_cohort
    from ctglip_preprocessing.interrupt import stop_on_first_signal
    from ctglip_preprocessing.progress import watching

    console = Console(stderr=True)
    try:
        with stop_on_first_signal() as stop:
            return preprocess_cohort(table, store, settings, workers, ray, retry_failed, watching(console), stop)
    except KeyboardInterrupt:
        console.print("Interrupted. What was finished is in the store; run the same command again to go on.")
        raise typer.Exit(130) from None


def _settings(config: str | None, changes: Sequence[str], encoder: str | None) -> PreprocessConfig:
    """The settings of a config, as a released encoder wants them where one is named."""
    from ctglip.config import load_settings
    from ctglip.encoder_cards import encoder_card
    from ctglip_preprocessing.settings import PreprocessConfig

    expected = {} if encoder is None else encoder_card(encoder).preprocess()
    default = "preprocess/cxr" if "cxr" in expected else "preprocess/organ_crops"
    return load_settings(PreprocessConfig, config or default, changes, expected)


def describe(summary: Summary) -> str:
    """A summary in words, a few lines."""
    if summary.worked == 0:
        known = f"{summary.up_to_date} of {_count(summary.studies)} up to date in {summary.store}"
        lines = [f"Nothing to do: {known}, no input has changed since."]
    else:
        lines = [
            f"{summary.store}: {_count(summary.written)} written, {summary.up_to_date} up to date, "
            f"{len(summary.failed)} failed, in {summary.seconds:.1f} s."
        ]
    if summary.failed:
        lines.append(f"Failed: {', '.join(f'{count} {code}' for code, count in summary.reasons.items())}.")
        lines += [f"  {f.study_id}: {f.code}: {f.message}" for f in summary.failed[:10]]
        if len(summary.failed) > 10:
            lines.append(f"  ... and {len(summary.failed) - 10} more (--json lists them all).")
        lines.append("Mend the input and run again, or try the same input again with --retry-failed.")
    if summary.without_masks:
        listed = _listed(summary.without_masks)
        lines.append(
            f"{_count(len(summary.without_masks))} without organ masks: {listed}. No organ of them is trained on."
        )
    for group in summary.same_images[:5]:
        lines.append(f"The same image stands under several patients: {_listed(group)}. Give them one patient_id.")
    if len(summary.same_images) > 5:
        lines.append(f"... and {len(summary.same_images) - 5} more such images (--json lists them all).")
    if summary.others:
        lines.append(f"{_count(summary.others)} of earlier cohorts stay in the store.")
    lines += summary.notes
    if summary.moved:
        moves = ", ".join(f"{p} from {old} to {new}" for p, (old, new) in list(summary.moved.items())[:5])
        lines.append(f"The cohort's split column moved {len(summary.moved)} patients: {moves}.")
    return "\n".join(lines)


def _listed(ids: Sequence[str]) -> str:
    return ", ".join(ids[:10]) + (f" and {len(ids) - 10} more (--json lists them all)" if len(ids) > 10 else "")


def _count(studies: int) -> str:
    return f"{studies} {'study' if studies == 1 else 'studies'}"
