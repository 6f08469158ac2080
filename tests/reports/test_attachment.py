"""Attachment answers, and changes nothing: the same question gives the same answer in any order."""

from __future__ import annotations

import pytest

from ctglip.reports.attachment import Attachment
from ctglip.reports.parser import get_parser
from ctglip.reports.sentence import Sentence


@pytest.mark.parametrize(
    "text",
    [
        "Bilateral pleural effusion-thickening, lymph nodes in both axillae and nodules in the left lung.",
        "Left pleural and pericardial effusion, a millimetric nodule in the thyroid and a cyst in both kidneys.",
    ],
)
def test_mentions_are_attached_alike_in_any_order(text: str) -> None:
    sentence = Sentence(text, get_parser().lexicon)
    attachment = Attachment(sentence, sentence.locations)
    mentions, locations = list(sentence.mentions), list(sentence.locations)
    forth = [attachment.attach(mention) for mention in mentions]
    back = [attachment.attach(mention) for mention in reversed(mentions)]
    assert forth == back[::-1]
    assert (sentence.mentions, sentence.locations) == (mentions, locations)


def test_a_shared_noun_is_a_mention_for_each_organ() -> None:
    sentence = Sentence("Bladder and rectal wall thickening.", get_parser().lexicon)
    mention = sentence.mentions[-1]
    attached = Attachment(sentence, sentence.locations).attach(mention)
    assert [location.term.organ for location in attached.locations] == ["rectum"]
    assert [m.location.term.organ for m in attached.coordinated if m.location] == ["urinary_bladder"]
