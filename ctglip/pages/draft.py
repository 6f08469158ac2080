"""The page of a drafted report: a click on a sentence shows its organ, with a heat map where there is one."""

from __future__ import annotations

from dataclasses import dataclass

from ctglip.pages.document import render_template
from ctglip.pages.parts import Fact, Picture
from ctglip.types import QualityCheck


@dataclass(frozen=True)
class DraftFigure:
    """What a sentence shows.

    Attributes:
        key: of letters, digits and ``-``; the sentences that show it name it.
        title: of the organ, or of what is affirmed of it.
        picture: a slice through the organ, or the radiograph.
        heat: a map as large as the picture and laid over it, or None.
        note: below it: "No heat map: ..."
    """

    key: str
    title: str
    picture: Picture
    heat: Picture | None = None
    note: str = ""


@dataclass(frozen=True)
class DraftLine:
    """One sentence.

    Attributes:
        text: as it was written.
        key: of the figure that it shows; "" where there is none.
        affirms: it affirms an abnormality.
        fault: what the dictionaries hold against it.
    """

    text: str
    key: str = ""
    affirms: bool = False
    fault: str = ""


@dataclass(frozen=True)
class DraftParagraph:
    """The sentences about one organ, with what speaks against them."""

    organ: str
    lines: tuple[DraftLine, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class DraftPage:
    """Everything on the page of a draft.

    Attributes:
        title: name of the image.
        disclaimer: one sentence, at the top.
        findings: organ by organ, in reading order.
        impression: the sentences that affirm something.
        nothing: in place of an empty impression.
        not_read: why organs were not read, a sentence each.
        silent: organs of which nothing was written.
        figures: what sentences show.
        facts: of the image and the model.
        checks: what was noticed about the image.
        kind: ``scan`` or ``radiograph``.
    """

    title: str
    disclaimer: str
    findings: tuple[DraftParagraph, ...]
    impression: tuple[DraftLine, ...]
    nothing: str
    not_read: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    figures: tuple[DraftFigure, ...] = ()
    facts: tuple[Fact, ...] = ()
    checks: tuple[QualityCheck, ...] = ()
    kind: str = "scan"


def render_draft(page: DraftPage) -> str:
    """The page as one self-contained HTML document, without scripts."""
    return render_template("draft.html", page=page)
