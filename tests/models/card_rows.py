"""Write the table of docs/weights.md anew from the cards: ``python -m tests.models.card_rows``."""

from __future__ import annotations

from pathlib import Path

from ctglip.models.encoders import RELEASED, RELEASED_CXR
from tests.models.test_released_files import card_row

PAGE = Path(__file__).parents[2] / "docs" / "weights.md"

if __name__ == "__main__":
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if not line.startswith(("| `", "<!--"))]
    rules = [number + 1 for number, line in enumerate(lines) if line == "|---|---|---|---|---|"]
    for start, kind in reversed(list(zip(rules, (RELEASED, RELEASED_CXR), strict=True))):
        lines[start:start] = [card_row(name) for name in kind]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
