"""Which tag looks for an abnormality."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ctglip.evaluation.parts.tags import _tag
from ctglip.vocabulary.abnormalities import load_abnormalities


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("cardiomegaly", "cardiomegaly"),
        ("lung_nodule", "nodule"),
        ("gallstone", load_abnormalities()["gallstone"].display),
    ],
)
def test_a_tag_stands_for_what_is_below_it(name: str, tag: str) -> None:
    model = SimpleNamespace(inputs=SimpleNamespace(tags=("nodule", "cardiomegaly")))
    scorer = SimpleNamespace(dictionaries=SimpleNamespace(abnormalities=load_abnormalities()))
    context: Any = SimpleNamespace(release=SimpleNamespace(model=model), scorer=scorer)
    assert _tag(context, name) == tag
