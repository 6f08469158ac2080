"""Every shipped config is valid."""

from __future__ import annotations

import pytest

from ctglip.cli.config import settings_class
from ctglip.config import load_tree, shipped_configs, validate
from ctglip.resources import resource

ROOT = resource("configs")
FILES = list(shipped_configs().values())


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_shipped_configs_are_valid(file) -> None:
    tree = load_tree(file)
    validate(settings_class(tree["kind"]), tree, str(file))


def test_there_are_configs_for_the_demo() -> None:
    assert {"small/ctglip_cnn.yaml", "preprocess/demo_3mm.yaml"} <= {str(file.relative_to(ROOT)) for file in FILES}
