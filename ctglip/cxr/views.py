"""Names of projections: what tables and DICOM headers write, and what the store knows."""

from __future__ import annotations

import re

FRONTAL = ("pa", "ap", "frontal")
"""``frontal``: PA or AP, which of the two is not said. The store also knows ``lateral``."""

_WORDS: tuple[tuple[str, str], ...] = (
    (r"pa|poster(?:o|ior)[ -]?anterior", "pa"),
    (r"ap|anter(?:o|ior)[ -]?posterior|portable|supine", "ap"),
    (r"l|ll|rl|lat|lateral|left lateral|right lateral|lldecub|rldecub", "lateral"),
    (r"frontal|front|f", "frontal"),
)


def view_of(text: str | None) -> str | None:
    """``pa``, ``ap``, ``frontal`` or ``lateral`` for what a table or header says ("PA"); None: unknown.

    Decubitus radiographs are frontal projections by their beam but no upright ones; they count as lateral, so that
    nothing that asks for frontal radiographs gets them.
    """
    words = " ".join(re.sub(r"[^a-z-]", " ", (text or "").lower()).split())
    if "decub" in words:
        return "lateral"
    for pattern, view in _WORDS:
        if re.search(rf"(?:^|\s)(?:{pattern})(?:$|\s)", words):
            return view
    return None
