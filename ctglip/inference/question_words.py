"""The words of questions that name neither an organ nor an abnormality."""

from __future__ import annotations

import re

PLAIN = frozenset(
    """
    a about an and any anything abnormal abnormality abnormalities appear appears are at be been being but by can
    changes check chest's could ct currently detect detected diagnose diagnosed did disease diseases do does else
    evidence evident everything exclude exist exists finding findings find for from get give got had has have having
    he healthy her here him his how i identify if image images in is it its known like list look looks looking may
    me might my normal of ok okay on or our out pathology patient patient's patients please possible possibly present
    presence probable problem problems r/o report rule scan scans see seem seems seen she should show shown shows
    sign signs some something studied study suffer suffers suffering suggest suggesting suggestion suspect suspected
    suspicion suspicious tell that the their them there there's these they this to tomography us visible visualized
    was we were what what's whatever when where whether which who with within would wrong you your
    """.split()  # noqa: SIM905
)
GENERAL = frozenset(
    """
    abnormal abnormality abnormalities anything disease diseases everything finding findings healthy normal pathology
    problem problems wrong
    """.split()  # noqa: SIM905
)
"""A question of plain words with one of these asks for everything."""
UNASKED = frozenset(
    """
    acute big chronic extensive few huge large massive mild minimal minor moderate multiple new numerous old severe
    significant single slight slightly small subtle tiny
    """.split()  # noqa: SIM905
)
"""Words that say of what kind something is, which no answer speaks of; so do numbers with their units."""
MEASURE = re.compile(r"\d+(?:[.,]\d+)?(?:mm|cm|ml|hu)?|mm|cm|ml|hu")
DENYING = frozenset("absence absent aren't denies isn't lack lacks negative no none nor not without".split())  # noqa: SIM905
PHRASES = re.compile(r"\b(?:absence of|lack of|free of|negative for|without)\s+", re.IGNORECASE)
"""Denials that a sentence of a report has in another form."""
