"""Sections of a report: findings, impression, indication, technique, comparison.

Headings are found in any case, misspelt, alone on their line or before a colon; a report without headings is all
findings. Nothing is lost: every word of the text, save the headings themselves, lands in one section.
"""

from __future__ import annotations

import difflib
import html
import re
from functools import lru_cache
from pathlib import Path

from ctglip.errors import ReportError
from ctglip.files import read_yaml
from ctglip.limits import MOST_REPORT
from ctglip.reports.dictation import written
from ctglip.types import Report, Section

_HEADINGS: dict[Section, tuple[str, ...]] = read_yaml(Path(__file__).with_name("headings.yaml"))
_KNOWN: dict[str, Section] = {heading: section for section, names in _HEADINGS.items() for heading in names}
_CANDIDATE = re.compile(
    r"(?:^|(?<=[.?!\"•]))[ \t]*[-*#•=_]*[ \t]*(?:\d{1,2}[.)][ \t]*)?(?P<name>[A-Za-z][A-Za-z&/ _'’-]{2,40}?)[ \t*_]*"
    r"(?::[*_]*|-{1,2}>|(?=[ \t]*\r?$))",
    re.MULTILINE,
)
_INLINE = re.compile(
    r"(?<![\w])(?P<name>FINDINGS?|IMPRESSIONS?|CONCLUSIONS?|INDICATIONS?|TECHNIQUE|COMPARISON|HISTORY|OPINION)[ \t]*:"
)
_BODY_REGIONS = (
    "head|brain|skull|sinuses|face|orbits|neck|thyroid|chest|thorax|lower chest|lungs?(?: bases| and pleura)?|pleura",
    "airways|heart|cardiac|mediastinum|abdomen|upper abdomen|pelvis|liver|hepatobiliary|biliary|gallbladder|spleen",
    "pancreas|adrenals?|kidneys?|bowel|gi tract|stomach|peritoneum|bladder|vessels|vasculature|vascular|aorta",
    "lymph nodes|nodes|bones?|skeleton|musculoskeletal|osseous|spine|(?:cervical|thoracic|lumbar|thoracolumbar) spine",
    "soft tissues|lines and tubes|lines|tubes|devices|reproductive|uterus|prostate|extremities",
)
_REGIONS = "|".join(_BODY_REGIONS)
_REGION = re.compile(
    rf"^[ \t]*[-*#•]*[ \t]*(?P<name>(?:{_REGIONS})(?:[ \t]*(?:/|&|,|and)[ \t]*(?:{_REGIONS}))*)[ \t]*:",
    re.IGNORECASE | re.MULTILINE,
)
_REGION_WITHIN = re.compile(_REGION.pattern.replace("^", r"(?:^|(?<=[.?!][ ]))", 1), re.IGNORECASE)
_FIRST_LINE = re.compile(r"\s*[^\n]*(?:(?<![.?!:])\n(?=[ \t]*[a-z])[^\n]*)*(?:\n|$)")
_BREAK_TAG = re.compile(r"<\s*/?\s*(?:br|p|div|li|tr|h[1-6]|ul|ol|table)\b[^<>]{0,200}>", re.IGNORECASE)
_TAG = re.compile(r"<\s*/?\s*[a-zA-Z][\w-]{0,20}(?:\s[^<>]{0,200})?/?>")
_BLANKS = re.compile(r"[ \t]{41,}")
_RUN = re.compile(r"([^\w\s])\1{40,}")
"""Longer runs of one character say no more, and take time that grows with their square."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b\ufeff]")


def split_sections(text: str) -> Report:
    """Split a whole report into its sections, each verbatim but for surrounding space.

    HTML tags become line breaks or spaces and entities become characters. Text before the first heading is a title
    (technique) when it is one short line without a sentence, else findings.
    """
    text = written(clean(text))
    parts: dict[Section, list[str]] = {section: [] for section in _HEADINGS}
    marks = _headings(text)
    first = marks[0][0] if marks else len(text)
    opening = text[:first].strip()
    parts["technique" if marks and _is_title(opening) else "findings"].append(opening)
    ends = [mark[0] for mark in marks[1:]] + [len(text)]
    for (_, start, section), end in zip(marks, ends, strict=False):
        parts[section].append(text[start:end].strip())
    joined = {section: "\n".join(filter(None, texts)) or None for section, texts in parts.items()}
    return Report(**joined)


def clean(text: str) -> str:
    """Text without HTML remains and control characters; the words stay as they are, runs of blanks and of one sign are
    cut to 40.

    Raises:
        ReportError: ``too_large``: more than ``limits.MOST_REPORT`` characters.
    """
    if len(text) > MOST_REPORT:
        raise ReportError(
            f"The report has {len(text)} characters, at most {MOST_REPORT} are read.",
            code="too_large",
            fix="Give each study its own report.",
        )
    if "<" in text:
        text = _TAG.sub(" ", _BREAK_TAG.sub("\n", text))
    if "&" in text:
        text = html.unescape(text)
    text = _CONTROL.sub(" ", text).replace("\r\n", "\n").replace("\r", "\n").replace("\xa0", " ")
    return short_runs(text)


def short_runs(text: str) -> str:
    """Text whose runs of blanks, and of one sign, are cut to 40."""
    return _RUN.sub(lambda run: run[1] * 40, _BLANKS.sub(" " * 40, text))


def _headings(text: str) -> list[tuple[int, int, Section]]:
    """(start of the heading, start of its content, section) in order of the text."""
    found: dict[int, tuple[int, int, Section]] = {}
    for match in (_REGION if "\n" in text else _REGION_WITHIN).finditer(text):
        found[match.start("name")] = (match.start("name"), match.start("name"), "findings")
    for pattern in (_CANDIDATE, _INLINE):
        for match in pattern.finditer(text):
            section = section_of(match.group("name"))
            if section is not None:
                found.setdefault(match.start("name"), (match.start("name"), match.end(), section))
    return _untitled([found[start] for start in sorted(found)], text)


def _untitled(marks: list[tuple[int, int, Section]], text: str) -> list[tuple[int, int, Section]]:
    """With findings that stand under no heading: behind the line of an indication, a technique or a comparison.

    Headings of organs and regions open the findings only where what is before them is no part of the findings yet.
    """
    opened: list[tuple[int, int, Section]] = []
    titled = any(section == "findings" and start != content for start, content, section in marks)
    for number, mark in enumerate(marks):
        if mark[0] == mark[1] and (not opened or opened[-1][2] in ("findings", "impression")):
            continue
        opened.append(mark)
        end = marks[number + 1][0] if number + 1 < len(marks) else len(text)
        line = _FIRST_LINE.match(text, mark[1], end)
        if titled or mark[2] in ("findings", "impression") or line is None or not text[line.end() : end].strip():
            continue
        opened.append((line.end(), line.end(), "findings"))
    return opened


@lru_cache(maxsize=4096)
def section_of(heading: str) -> Section | None:
    """The section that a heading opens, misspelt or not, or None when it is no section heading."""
    name = " ".join(re.sub(r"[^a-z ]", " ", heading.lower()).split())
    if name in _KNOWN:
        return _KNOWN[name]
    if len(name) < 6:
        return None
    alike = [known for known in _KNOWN if known[0] == name[0] and abs(len(known) - len(name)) < 3]
    near = difflib.get_close_matches(name, alike, n=1, cutoff=0.88)
    return _KNOWN[near[0]] if near else None


def _is_title(text: str) -> bool:
    return "\n" not in text and len(text) < 120 and not text.endswith(".")
