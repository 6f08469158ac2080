"""Tutorials: notebooks as Python files, shown as pages; with what they print where they have been run."""

from __future__ import annotations

import json
import re
from pathlib import Path

TUTORIALS = Path(__file__).resolve().parents[1] / "tutorials"
RUN = Path(__file__).resolve().parents[2] / "build/notebooks"
"""Where ``make docs-notebooks`` leaves the notebooks that it has run."""


def cells(text: str) -> list[tuple[str, str]]:
    """The cells of a notebook that is written as percent-format Python: ``markdown`` or ``code``, and its text."""
    found = []
    for part in re.split(r"^# %%", text, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        if "[markdown]" in head:
            found.append(
                ("markdown", "\n".join(line.removeprefix("#").removeprefix(" ") for line in body.strip().split("\n")))
            )
        else:
            found.append(("code", body.strip("\n")))
    return found


def pages() -> dict[str, str]:
    """A page for each tutorial."""
    return {f"tutorials/{path.stem}.md": page(path) for path in sorted(TUTORIALS.glob("*.py"))}


def page(path: Path) -> str:
    """A tutorial as a page."""
    outputs = _outputs(RUN / f"{path.stem}.ipynb")
    parts, count = [], 0
    for kind, text in cells(path.read_text(encoding="utf-8")):
        if kind == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        if count < len(outputs) and outputs[count]:
            parts.append(f"```text\n{outputs[count]}\n```")
        count += 1
    return "\n\n".join([*parts, f"The notebook: `docs/tutorials/{path.name}`. `make docs-notebooks` runs it.", ""])


def _outputs(notebook: Path) -> list[str]:
    """What each cell of code printed."""
    if not notebook.is_file():
        return []
    shown = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        printed = [one for one in cell["outputs"] if one.get("name") != "stderr"]
        texts = ["".join(one.get("text") or one.get("data", {}).get("text/plain", "")) for one in printed]
        shown.append("".join(texts).strip())
    return shown
