import pytest

from ctglip.reports.sentences import split_sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Cyst of 5 x 4 x 5 mm. in liver. Spleen normal.", ["Cyst of 5 x 4 x 5 mm. in liver.", "Spleen normal."]),
        ("A mass of 5x4x5. On the right, a nodule.", ["A mass of 5x4x5.", "On the right, a nodule."]),
        ("Nodule of 1.5 mm in size", ["Nodule of 1.5 mm in size"]),
        ("1. Nodule.\n2. No effusion", ["Nodule.", "No effusion"]),
        ("• Cyst • Stone", ["Cyst", "Stone"]),
        ("Liver normal; spleen enlarged.", ["Liver normal;", "spleen enlarged."]),
        ("As far as can be seen; the heart is normal.", ["As far as can be seen; the heart is normal."]),
        ("a nodule (metastasis?) in the lung. ok", ["a nodule (metastasis?) in the lung.", "ok"]),
        ("There is a nodule in the\nright lung. No effusion", ["There is a nodule in the right lung.", "No effusion"]),
        ("Liver: normal\nSpleen: normal", ["Liver: normal", "Spleen: normal"]),
        ("cavity in the apex.There are opacities.", ["cavity in the apex.", "There are opacities."]),
        ("heart is normal. lungs are clear.", ["heart is normal.", "lungs are clear."]),
        ("Seen by Dr. Smith. No. 5 rib is broken.", ["Seen by Dr. Smith.", "No. 5 rib is broken."]),
        ("Is there a mass? No.", ["Is there a mass?", "No."]),
        ("... !!! ---", []),
        ("", []),
    ],
)  # fmt: skip
def test_split(text, expected):
    assert list(split_sentences(text)) == expected


def test_nothing_is_lost():
    text = 'Liver normal.Spleen 1.5cm; kidneys (both) fine!\n\n- stones? yes\nPancreas\n"tail" "head" 12.'
    kept = "".join(split_sentences(text))
    assert [c for c in kept if c.isalnum()] == [c for c in text if c.isalnum()]
