"""The dictionaries: organs, abnormalities, how they belong together, and the prompts that are made of them. The data
stands in ``organ_dictionary/`` and ``abnormality_dictionary/``; ``load_organs()`` and ``load_abnormalities()`` read it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctglip.lazy import public_names

if TYPE_CHECKING:
    from ctglip.vocabulary.abnormalities import Abnormality as Abnormality
    from ctglip.vocabulary.abnormalities import AbnormalityDictionary as AbnormalityDictionary
    from ctglip.vocabulary.abnormalities import load_abnormalities as load_abnormalities
    from ctglip.vocabulary.evidence import organ_evidence as organ_evidence
    from ctglip.vocabulary.organs import Organ as Organ
    from ctglip.vocabulary.organs import OrganDictionary as OrganDictionary
    from ctglip.vocabulary.organs import load_organs as load_organs
    from ctglip.vocabulary.prompts import negative_prompts as negative_prompts
    from ctglip.vocabulary.prompts import normal_prompts as normal_prompts
    from ctglip.vocabulary.prompts import organ_prompts as organ_prompts
    from ctglip.vocabulary.prompts import positive_prompts as positive_prompts

__getattr__, __dir__ = public_names(__name__)
