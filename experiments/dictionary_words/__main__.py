"""Where the dictionary's newer words come from: count them and rewrite ``words.yaml``.

    python -m experiments.dictionary_words [--add ENTRY TERM ...]

A word that reports under ``CTGLIP_REAL_DATA`` hold is ``counted`` with the number of reports; one that a public
vocabulary lists is a ``list`` word with that list's name; the rest is ``knowledge``, for which no frequency is claimed.
Only numbers leave the reports. ``--add ENTRY TERM ...`` adds terms of an entry first.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ctglip.files import read_yaml, write_text
from ctglip.reports.abbreviations import load_abbreviations
from ctglip.reports.words import phrase

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("CTGLIP_REAL_DATA", ROOT.parent / "shared" / "data"))
WORDS = ROOT / "abnormality_dictionary" / "words.yaml"
TEXTS = {
    "chest_ct_18_labels/reports.csv": ("report_text",),
    "chest_ct_reports/reports.csv": ("ClinicalInformation_EN", "Findings_EN", "Impressions_EN"),
    "radiologist_notes/AbdomenAtlasRadiologistsNotes.csv": ("Notes",),
    "radiologist_notes/free_text_reports.csv": ("Report Text",),
    "radiologist_notes/report_examples.csv": ("Findings",),
}
HEAD = """\
# Where the dictionary's newer words come from: `counted` in {reports} reports (the number of reports that hold the
# word), `list`ed by a public vocabulary, or `knowledge` of the field, for which no frequency is claimed.
# experiments/dictionary_words writes this file; the words stand in abnormalities.yaml and, with what they stand for,
# in ctglip/reports/abbreviations.yaml. A test reads every one of them back.
version: 1
"""


def reports() -> Iterator[str]:
    """All report texts, one per report."""
    csv.field_size_limit(10**9)
    for name, columns in TEXTS.items():
        with (DATA / "reports" / name).open(encoding="utf-8-sig", errors="replace", newline="") as stream:
            for row in csv.DictReader(stream):
                yield "\n".join(row.get(column) or "" for column in columns)
    for item in json.loads((DATA / "reports/deeplesion_phrases/hand_labeled_test_set.json").read_text()):
        yield json.dumps(item)


def listed() -> dict[tuple[str, ...], str]:
    """Item of a public vocabulary, in normal form, to the vocabulary's name."""
    found: dict[tuple[str, ...], str] = {}
    for path in sorted((DATA / "lists").iterdir()):
        if path.suffix == ".json":
            items = list(_strings(json.loads(path.read_text(encoding="utf-8"))))
        elif path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as stream:
                items = [cell for row in csv.reader(stream) for cell in row]
        else:
            continue
        for item in items:
            for text in (item, item.split("_", 1)[-1]):
                found.setdefault(phrase(text), path.stem)
    return found


def _strings(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    for part in tree if isinstance(tree, list) else ():
        yield from _strings(part)
    for key, part in tree.items() if isinstance(tree, dict) else ():
        yield key
        yield from _strings(part)


def count(terms: Iterable[str], abbreviations: Iterable[str]) -> tuple[Counter[str], int]:
    """Reports that hold each term (in any inflection) or abbreviation (as it is spelled), and how many there are."""
    by_first: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    for term in terms:
        words = phrase(term)
        by_first.setdefault(words[0], []).append((words, term))
    spelled = {text: re.compile(rf"(?<![\w/]){re.escape(text)}s?(?![\w/])") for text in abbreviations}
    counts: Counter[str] = Counter()
    total = 0
    for text in reports():
        total += 1
        words = phrase(text)
        held = {
            term
            for i, word in enumerate(words)
            for run, term in by_first.get(word, ())
            if words[i : i + len(run)] == run
        }
        counts.update(held)
        counts.update(name for name, pattern in spelled.items() if pattern.search(text))
    return counts, total


def sourced(terms: Iterable[str], counts: Counter[str], lists: dict[tuple[str, ...], str]) -> dict[str, Any]:
    """Terms by where they come from."""
    found: dict[str, Any] = {"counted": {}, "list": {}, "knowledge": []}
    for term in terms:
        if counts[term]:
            found["counted"][term] = counts[term]
        elif phrase(term) in lists:
            found["list"][term] = lists[phrase(term)]
        else:
            found["knowledge"].append(term)
    return {kind: value for kind, value in found.items() if value}


def terms_of(entry: dict[str, Any]) -> list[str]:
    """All terms of an entry of ``words.yaml``."""
    return [term for terms in entry.values() for term in terms]


def main() -> None:
    """Count and write."""
    ask = argparse.ArgumentParser(
        prog="python -m experiments.dictionary_words",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    ask.add_argument("--add", nargs="+", action="append", default=[], metavar=("ENTRY", "TERM"))
    arguments = ask.parse_args()
    known = read_yaml(WORDS)["findings"] if WORDS.is_file() else {}
    terms = {name: terms_of(entry) for name, entry in known.items()}
    for name, *added in arguments.add:
        terms[name] = list(dict.fromkeys([*terms.get(name, []), *added]))
    abbreviations = load_abbreviations().abbreviations
    counts, total = count([term for some in terms.values() for term in some], abbreviations)
    lists = listed()
    exact = {phrase(text) for text, entry in abbreviations.items() if entry.exact}
    tree = {
        "abbreviations": sourced(abbreviations, counts, {w: n for w, n in lists.items() if w not in exact}),
        "findings": {name: sourced(some, counts, lists) for name, some in terms.items()},
    }
    write_text(WORDS, HEAD.format(reports=total) + _yaml(tree))


def _yaml(tree: dict[str, Any]) -> str:
    lines = ["abbreviations:"]
    lines += [f"  {kind}: {_flow(value, '    ')}" for kind, value in tree["abbreviations"].items()]
    lines.append("findings:")
    for name, entry in tree["findings"].items():
        lines.append(f"  {name}:")
        lines += [f"    {kind}: {_flow(value, '      ')}" for kind, value in entry.items()]
    return "\n".join(lines) + "\n"


def _flow(value: dict[str, Any] | list[str], indent: str) -> str:
    """One line where it fits, else several of at most 118 characters."""
    items = [f"{_key(k)}: {v}" for k, v in value.items()] if isinstance(value, dict) else [_key(v) for v in value]
    first, last = ("{", "}") if isinstance(value, dict) else ("[", "]")
    lines = [""]
    for item in items:
        if lines[-1] and len(indent) + len(lines[-1]) + len(item) > 115:
            lines.append("")
        lines[-1] += f"{item}, "
    body = "\n".join(indent + line.rstrip() for line in lines).rstrip(",")
    return f"{first}\n{body}\n{indent[:-2]}{last}" if len(lines) > 1 else f"{first}{body.strip()}{last}"


def _key(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z][\w .-]*", text) else json.dumps(text, ensure_ascii=False)


if __name__ == "__main__":
    main()
