"""Figures of README.md and docs, from the JSON of the runs that found them.

    python -m experiments.evidence demo DEMO_FOLDER...    # runs of `ctglip demo`, a seed each: docs/figures/demo.json
    python -m experiments.evidence ladder LADDER_JSON     # what experiments.headline wrote: docs/figures/ladder.json
    python -m experiments.evidence shortcuts SHORTCUTS_JSON    # the same of experiments.shortcuts
    python -m experiments.evidence pages                  # writes the tables of the pages anew

A table stands between `<!-- figures: NAME -->` and `<!-- end of figures -->`; a test compares the pages with the JSON.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctglip.files import read_json, write_json, write_text
from experiments.headline import figures as ladder
from experiments.shortcuts import __main__ as shortcuts

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "docs" / "figures"
PAGES = ("README.md", "docs/results.md", "docs/evidence.md")
_BLOCK = re.compile(r"(<!-- figures: ([\w-]+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)
Found = Mapping[str, Any]


def gather_demo(folders: Sequence[Path]) -> dict[str, Any]:
    """What runs of the demo found, each with its seed."""
    return {"runs": [_demo_run(folder) for folder in folders]}


def _demo_run(folder: Path) -> dict[str, Any]:
    results, about = (read_json(folder / name) for name in ("evaluation/results.json", "cohort/simulation.json"))
    return {
        "seed": about["seed"],
        "studies": about["studies"],
        "level": "easy" if not about["settings"]["masks"]["levels"] else "hard",
        "patients": results["patients"],
        "pairs": len(results["pairs"]),
        "macro_auroc": results["macro_auroc"],
        "controls": {one["name"]: one["macro_auroc"] for one in results["controls"]},
        "over_controls": {one["name"]: one["difference"] for one in results["controls"]},
        "calibration_error": results["calibration"]["ece_fitted"],
        "by_pair": {f"{one['organ']}:{one['abnormality']}": one["auroc"]["value"] for one in results["pairs"]},
    }


def gather_ladder(found: Found) -> dict[str, Any]:
    """What the pages need of a ladder's results."""
    return {name: found[name] for name in ("plan", "pairs_judged", "jobs", "arms", "never_taught", "aims")}


# ---- tables


def _range(values: Sequence[float]) -> str:
    """Mean, and least to most where there are several."""
    mean = sum(values) / len(values)
    return f"{mean:.3f}" + (f", {min(values):.3f} to {max(values):.3f}" if len(values) > 1 else "")


def demo_table(found: Found) -> Iterator[str]:
    """Means and ranges over seeds."""
    runs = found["runs"]
    yield "| what | figure |"
    yield "|---|---|"
    ends = [run["macro_auroc"][end] for end in ("low", "high") for run in runs]
    scores = _range([run["macro_auroc"]["value"] for run in runs])
    pairs = "/".join(map(str, sorted({run["pairs"] for run in runs})))
    yield (
        f"| macro AUROC, zero-shot, over {pairs} (organ, abnormality) pairs against the truth | {scores} "
        f"(intervals over patients from {min(ends):.3f} to {max(ends):.3f}) |"
    )
    for name in runs[0]["controls"]:
        yield f"| control: {name.lower()} | {_range([run['controls'][name]['value'] for run in runs])} |"
    errors = _range([run["calibration_error"] for run in runs])
    yield f"| calibration error after fitting on the validation patients | {errors} |"
    last = runs[0]["by_pair"]
    means = {
        pair: sum(values) / len(values)
        for pair in last
        if len(values := [run["by_pair"][pair] for run in runs if run["by_pair"].get(pair) is not None]) == len(runs)
    }
    order = sorted(means, key=lambda pair: means[pair])
    for what, some in (("weakest", order[:4]), ("strongest", order[:-5:-1])):
        yield f"| {what} pairs | {', '.join(f'{_words(pair)} {means[pair]:.2f}' for pair in some)} |"


def _words(pair: str) -> str:
    organ, name = pair.split(":")
    return f"{organ} {name}".replace("_", " ")


def ladder_table(found: Found) -> Iterator[str]:
    """The ladder."""
    return iter(ladder.lines(found))


def demo_about(found: Found) -> Iterator[str]:
    """What the demo's figures were made on."""
    runs = found["runs"]
    seeds = ", ".join(str(run["seed"]) for run in runs)
    patients = sorted(run["patients"] for run in runs)
    held_out = f"{patients[0]} to {patients[-1]}" if patients[0] != patients[-1] else str(patients[0])
    which = f"seed{'s' * (len(runs) > 1)} {seeds}"
    yield (
        f"`ctglip demo FOLDER --seed N`, {which}: {runs[0]['studies']} simulated studies at the "
        f"{runs[0]['level']} level, {held_out} held-out patients."
    )


def ladder_about(found: Found) -> Iterator[str]:
    """How much of the ladder there is."""
    plan = found["plan"]
    yield (
        f"So far: runs of {plan['steps']} steps, {plan['studies']} patients, {found['jobs']['done']} of "
        f"{found['jobs']['of']} runs."
    )


def ladder_short(found: Found) -> Iterator[str]:
    """The rungs and the controls beside them, on the anatomy left out."""
    yield "| what is trained | anatomies, seeds | anatomy left out | in domain |"
    yield "|---|---|---|---|"
    for row in found["arms"].values():
        yield (
            f"| {row['label']} | {row['folds']}, {row['seeds']} | {ladder.shown(row['left_out'])} | "
            f"{ladder.shown(row['in_domain'])} |"
        )


TABLES: dict[str, tuple[str, Callable[[Found], Iterator[str]]]] = {
    "demo": ("demo.json", demo_table),
    "demo-about": ("demo.json", demo_about),
    "ladder": ("ladder.json", ladder_table),
    "ladder-about": ("ladder.json", ladder_about),
    "shortcuts": ("shortcuts.json", shortcuts.lines),
    "ladder-short": ("ladder.json", ladder_short),
}
"""Blocks by name: the file that they are made from, and how."""


def rendered(page: str) -> str:
    """A page with its tables made anew.

    Raises:
        KeyError: a block that nothing makes.
    """

    def block(match: re.Match[str]) -> str:
        file, table = TABLES[match[2]]
        return match[1] + "\n".join(table(read_json(FIGURES / file))) + "\n" + match[3]

    return _BLOCK.sub(block, page)


def main() -> None:
    """Gather figures, or write the pages."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.evidence", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("demo", "ladder", "shortcuts", "pages"))
    parser.add_argument("paths", nargs="*", type=Path)
    asked = parser.parse_args()
    if asked.what != "pages" and not asked.paths:
        parser.error(f"{asked.what} needs what it is gathered from")
    if asked.what == "demo":
        write_json(FIGURES / "demo.json", gather_demo(asked.paths))
    elif asked.what == "ladder":
        write_json(FIGURES / "ladder.json", gather_ladder(read_json(asked.paths[0])))
    elif asked.what == "shortcuts":
        found = read_json(asked.paths[0])
        write_json(FIGURES / "shortcuts.json", {name: found[name] for name in ("jobs", "left_out", "confounded")})
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        if rendered(text) != text:
            write_text(ROOT / page, rendered(text))
            sys.stderr.write(f"{page} is written anew\n")


if __name__ == "__main__":
    main()
