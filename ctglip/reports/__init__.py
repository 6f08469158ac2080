"""Reports to findings, by rules: sections, sentences, what is affirmed, denied or left open, and of which organ.
``get_parser().parse(report)`` gives one row a sentence, organ and abnormality.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctglip.lazy import public_names

if TYPE_CHECKING:
    from ctglip.reports.llm import LLMParser as LLMParser
    from ctglip.reports.llm import LLMSettings as LLMSettings
    from ctglip.reports.mining import mine as mine
    from ctglip.reports.parser import ReportParser as ReportParser
    from ctglip.reports.parser import get_parser as get_parser
    from ctglip.reports.sections import split_sections as split_sections
    from ctglip.reports.sentences import split_sentences as split_sentences
    from ctglip.reports.tags import Tagger as Tagger

__getattr__, __dir__ = public_names(__name__)
