"""A page for each published recipe: its values, and where each stands."""

from __future__ import annotations

from ctglip.cli.config import settings_class
from ctglip.cli.origin import facts_of, origins
from ctglip.config import FACTS, load_tree, shipped_configs, validate
from ctglip.resources import resource


def pages() -> dict[str, str]:
    """The recipes of papers, setting by setting."""
    root = resource("configs")
    found = {}
    for name in shipped_configs():
        file = root / f"{name}.yaml"
        if not file.with_name(f"{file.stem}{FACTS}").is_file():
            continue
        tree = load_tree(name)
        whole = validate(settings_class(str(tree["kind"])), tree, name).model_dump(mode="json")
        facts = facts_of(file)
        lines = [f"# {file.stem}", "", f"{facts.paper}. Code: {facts.code or 'none is public'}.", ""]
        lines += [
            "Each setting as `ctglip config show` has it, and where its value is published, or that ours differs.",
            "",
        ]
        lines += ["```text", *(one.line() for one in origins(whole, facts) if one.fact is not None), "```", ""]
        if facts.beyond:
            lines += ["What no setting says:", "", "```text"]
            lines += [f"{one.what}: {one.here} ({one.source})" for one in facts.beyond] + ["```", ""]
        found[f"papers/{file.stem}.md"] = "\n".join(lines)
    return found
