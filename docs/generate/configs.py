"""Pages of settings and shipped configs, from the classes that read them."""

from __future__ import annotations

import inspect
import re
import typing
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import yaml

from ctglip.cli.config import settings_class
from ctglip.config import FACTS, OneOf, Settings, load_tree, shipped_configs, validate
from ctglip.resources import resource
from generate.tables import cell

KINDS = ("preprocess", "pretrain", "evaluate", "evaluate_peer", "finetune", "cohort_map", "encoder", "peer")
_ATTRIBUTE = re.compile(r"^ {4}(?P<names>[\w, `.]+):\s+(?P<text>.*)$")


def classes(kind: str) -> list[type[Settings]]:
    """The settings classes of a kind of config, the root first."""
    root = settings_class(kind)
    found = list(_family(root))
    for one in found:
        for field in one.model_fields.values():
            for other in _inside(field.annotation, field.metadata):
                if other not in found:
                    found.append(other)
    return found


def _family(kind: type[Settings]) -> Iterator[type[Settings]]:
    """A class and all that extend it: tasks have settings of their own."""
    yield kind
    for one in kind.__subclasses__():
        yield from _family(one)


def _inside(annotation: Any, metadata: Any = ()) -> Iterator[type[Settings]]:
    for one in metadata:
        if isinstance(one, OneOf):
            yield from (one.settings_of(name) for name in one.registry)
    if isinstance(annotation, type) and not typing.get_args(annotation):
        if issubclass(annotation, Settings):
            yield annotation
        return
    for part in typing.get_args(annotation):
        yield from _inside(part, getattr(part, "__metadata__", ()))


def described(kind: type[Settings]) -> dict[str, str]:
    """What the docstrings of a class and of its bases say of each field."""
    said: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        name = ""
        for line in inspect.cleandoc(base.__dict__.get("__doc__") or "").splitlines():
            if (found := _ATTRIBUTE.match(line)) is not None:
                names = [one.strip("` ") for one in found["names"].split(",")]
                said |= dict.fromkeys(names, found["text"])
                name = names[0]
            elif name and line.startswith("     "):
                said[name] += f" {line.strip()}"
    return said


def pages() -> dict[str, str]:
    """A page for each kind of config, and one for each folder of shipped configs."""
    return {f"reference/settings/{kind}.md": _settings_page(kind) for kind in KINDS} | _shipped()


def _settings_page(kind: str) -> str:
    lines = [f"# Settings: {kind}", "", f"What a config with `kind: {kind}` may hold: every field with its default. Change one "
             "with `--set section.key=value`.", ""]  # fmt: skip
    for one in classes(kind):
        first = (inspect.getdoc(one) or "").split("\n\n")[0]
        said = described(one)
        lines += [f"## {one.__name__}", "", cell(first), "", "| field | type | default | what |", "|---|---|---|---|"]
        for name, field in one.model_fields.items():
            default = "needed" if field.is_required() else f"`{_default(field.get_default(call_default_factory=True))}`"
            what = cell(said.get(name, ""))
            lines.append(f"| `{name}` | `{_type(field)}` | {default} | {what} |")
        lines.append("")
    return "\n".join(lines)


def _default(value: Any) -> str:
    if isinstance(value, Settings):
        return type(value).__name__
    return _code(repr(value))


def _type(field: Any) -> str:
    for one in field.metadata:
        if isinstance(one, OneOf):
            return "one of: " + ", ".join(one.registry)
    text = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", inspect.formatannotation(field.annotation))
    return _code(re.sub(r"Annotated\[([^,\]]+),[^\]]*\]", r"\1", text))


def _code(text: str) -> str:
    text = " ".join(text.split()).replace("|", "or").replace("`", "'")
    return text if len(text) < 120 else f"{text[:117]}..."


def _shipped() -> dict[str, str]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name in shipped_configs():
        groups[name.partition("/")[0]].append(name)
    return {f"reference/configs/{group}.md": _group_page(group, names) for group, names in groups.items()}


def _group_page(group: str, names: list[str]) -> str:
    lines = [f"# Configs: {group}", "", "Each file as it is shipped, and below it every value once its bases are merged and "
             f"defaults filled in (`ctglip config show {names[0]}`).", ""]  # fmt: skip
    for name in names:
        file = resource("configs") / f"{name}.yaml"
        tree = load_tree(name)
        whole = validate(settings_class(str(tree["kind"])), tree, name).model_dump(mode="json")
        lines += [f"## {name}", "", "```yaml", file.read_text(encoding="utf-8").rstrip(), "```", ""]
        dumped = yaml.safe_dump(whole, sort_keys=False, allow_unicode=True).rstrip()
        lines += [
            "<details markdown><summary>Every value</summary>",
            "",
            "```yaml",
            dumped,
            "```",
            "",
            "</details>",
            "",
        ]
        if file.with_name(f"{file.stem}{FACTS}").is_file():
            lines += [f"[Where its values come from](../../papers/{file.stem}.md)", ""]
    return "\n".join(lines)
