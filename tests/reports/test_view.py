from rich.text import Text

from ctglip.reports.parser import get_parser
from ctglip.reports.view import readable


def test_everything_is_shown_in_words() -> None:
    text = Text.from_markup(readable(get_parser().parse("FINDINGS: Left renal cyst [1]. No ascites. It rains."))).plain
    assert "Findings" in text
    assert "Left renal cyst [1]." in text
    assert "affirmed" in text
    assert "negated" in text
    assert "not placed" in text


def test_statuses_differ_in_colour_and_word() -> None:
    affirmed, negated = readable(get_parser().parse("Ascites.")), readable(get_parser().parse("No ascites."))
    assert "bold red" in affirmed
    assert "green" in negated


def test_nothing_to_show() -> None:
    assert readable(()) == ""
