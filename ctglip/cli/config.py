"""``ctglip config``: see, check and describe settings."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from ctglip.cli.console import AsJson, out, print_line, result
from ctglip.cli.group import CommandGroup
from ctglip.cli.origin import facts_of, origins
from ctglip.config import Settings, load_tree, shipped_configs, validate
from ctglip.errors import ConfigError

app = typer.Typer(cls=CommandGroup, help="Show, validate and describe config files.", no_args_is_help=True)
Changes = Annotated[list[str] | None, typer.Option("--set", help="Change a setting: section.key=value.")]


def settings_class(kind: str) -> type[Settings]:
    """The root settings class of a config's ``kind:``."""
    if kind == "pretrain":
        from ctglip.training.pretrain_config import PretrainConfig

        return PretrainConfig
    if kind == "evaluate":
        from ctglip.evaluation.settings import EvaluateConfig

        return EvaluateConfig
    if kind == "evaluate_peer":
        from ctglip.evaluation.peers.settings import PeerEvaluateConfig

        return PeerEvaluateConfig
    if kind == "peer":
        from ctglip.evaluation.peers.card import PeerCard

        return PeerCard
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
    raise ConfigError(
        f"The config's kind is {kind!r}.",
        fix="Known kinds: preprocess, pretrain, evaluate, evaluate_peer, finetune, peer, encoder.",
    )


def _resolved(file: Path, changes: list[str] | None) -> Settings:
    tree = load_tree(file, changes or ())
    return validate(settings_class(str(tree.get("kind", ""))), tree, str(file))


@app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """List the shipped configs by the names that --config takes, with what each is."""
    known = {name: _about(file) for name, file in shipped_configs().items()}
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
    origin: Annotated[
        bool,
        typer.Option("--origin", help="Of a paper's recipe: say where each value is published, or that it differs."),
    ] = False,
) -> None:
    """Print the config with its bases merged, defaults filled in and changes applied."""
    import yaml

    tree = _resolved(file, changes).model_dump(mode="json")
    if origin:
        print_line(_with_origins(file, tree))
        return
    out.print(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), markup=False, highlight=False, end="")


def _with_origins(file: Path, tree: dict[str, Any]) -> str:
    """A line for each setting, and what no setting says."""
    facts = facts_of(file)
    found = origins(tree, facts)
    lines = [f"# {facts.paper}", f"# code: {facts.code or 'none is public'}", *(one.line() for one in found)]
    for one in facts.beyond:
        unsure = ", unconfirmed" if one.state == "unconfirmed" else ""
        lines.append(f"no setting: {one.what}   [differs{unsure}] {one.here} ({one.source})")
    counts = Counter(one.state for one in found if one.fact is not None)
    return "\n".join([*lines, f"# {', '.join(f'{count} {state}' for state, count in sorted(counts.items()))}"])


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
def schema(
    kind: Annotated[str, typer.Argument(help="preprocess, pretrain, evaluate, evaluate_peer, finetune ...")],
) -> None:
    """Print the JSON schema of a kind of config, for editors."""
    out.print_json(json.dumps(settings_class(kind).model_json_schema()))
