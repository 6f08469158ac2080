"""``ctglip config``: see, check and describe settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ctglip.cli.console import AsJson, out, result
from ctglip.cli.group import CommandGroup
from ctglip.config import Settings, load_tree, validate
from ctglip.errors import ConfigError
from ctglip.resources import resource

app = typer.Typer(cls=CommandGroup, help="Show, validate and describe config files.", no_args_is_help=True)
Changes = Annotated[list[str] | None, typer.Option("--set", help="Change a setting: section.key=value.")]


def settings_class(kind: str) -> type[Settings]:
    """The root settings class of a config's ``kind:``."""
    if kind == "pretrain":
        from ctglip.training.recipe import PretrainConfig

        return PretrainConfig
    if kind == "evaluate":
        from ctglip.evaluation.settings import EvaluateConfig

        return EvaluateConfig
    if kind == "finetune":
        from ctglip.tasks.settings import FinetuneConfig

        return FinetuneConfig
    if kind == "cohort_map":
        from ctglip.cohorts.column_map import CohortMap

        return CohortMap
    if kind == "encoder":
        from ctglip.encoder_cards import EncoderCard

        return EncoderCard
    if kind == "preprocess":
        from importlib.metadata import entry_points

        (entry,) = entry_points(group="ctglip.settings", name="preprocess")
        return entry.load()
    raise ConfigError(f"The config's kind is {kind!r}.", fix="Known kinds: preprocess, pretrain, evaluate, finetune.")


def _resolved(file: Path, changes: list[str] | None) -> Settings:
    tree = load_tree(file, changes or ())
    return validate(settings_class(str(tree.get("kind", ""))), tree, str(file))


@app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """List the shipped configs by the names that --config takes, with what each is."""
    folder = resource("configs")
    files = {file.relative_to(folder).with_suffix("").as_posix(): file for file in folder.rglob("*.yaml")}
    known = {name: _about(file) for name, file in sorted(files.items())}
    width = max(map(len, known)) + 2
    result(known, as_json, "\n".join(f"{name:<{width}}{about}".rstrip() for name, about in known.items()))


def _about(file: Path) -> str:
    """The first sentence of the comment that a config begins with."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    first = " ".join(lines).split(". ")[0].rstrip(".")
    return f"{first}." if first else ""


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="Config file, or a shipped name such as small/ctglip_cnn.")],
    changes: Changes = None,
) -> None:
    """Print the config with its bases merged, defaults filled in and changes applied."""
    import yaml

    tree = _resolved(file, changes).model_dump(mode="json")
    out.print(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), markup=False, highlight=False, end="")


@app.command("validate")
def validate_command(
    files: Annotated[list[Path], typer.Argument(help="Config files, or shipped names.")],
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Check config files; the first fault ends with exit code 2."""
    for file in files:
        _resolved(file, changes)
    names = [str(file) for file in files]
    result({"valid": names}, as_json, f"Valid: {', '.join(names)}")


@app.command()
def schema(kind: Annotated[str, typer.Argument(help="preprocess, pretrain, evaluate or finetune.")]) -> None:
    """Print the JSON schema of a kind of config, for editors."""
    out.print_json(json.dumps(settings_class(kind).model_json_schema()))
