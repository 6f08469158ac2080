"""HTML pages from plain dataclasses, each with a ``render`` beside it: one file, no network. Knows no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctglip.lazy import public_names

if TYPE_CHECKING:
    from ctglip.pages.answers import AnswersPage as AnswersPage
    from ctglip.pages.compare import Comparison as Comparison
    from ctglip.pages.cxr import CxrPage as CxrPage
    from ctglip.pages.document import render_template as render_template
    from ctglip.pages.index import IndexPage as IndexPage
    from ctglip.pages.pairs import PairsPage as PairsPage
    from ctglip.pages.quality import QualityPage as QualityPage
    from ctglip.pages.report import EvaluationPage as EvaluationPage
    from ctglip.pages.viewer import Viewer as Viewer
    from ctglip.pages.viewer import make_viewer as make_viewer

__getattr__, __dir__ = public_names(__name__)
