"""Files of weights that must be refused with one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ctglip.errors import ModelError
from ctglip.models.encoders.released import ReleasedEncoder


class Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def check_bad_files(
    build: Callable[[str], ReleasedEncoder],
    whole: dict[str, Any],
    wrapped: Callable[[dict[str, Any]], dict[str, Any]],
    other: dict[str, Any],
    folder: Path,
) -> None:
    """Weights of another model, half of them, broken, harmful and absent files end with one line, and nothing is run.

    Args:
        build: an encoder that starts from a file.
        whole: weights that fit.
        wrapped: makes a released file of weights.
        other: what a file of another model holds.
        folder: where the files are written.
    """
    path = folder / "weights.pth"

    def refused(match: str) -> None:
        with pytest.raises(ModelError, match=match) as caught:
            build(str(path)).load_pretrained()
        assert "\n" not in str(caught.value)

    torch.save(other, path)
    refused("None of the weights .* Missing")
    torch.save(wrapped(dict(list(whole.items())[: len(whole) // 2])), path)
    refused("Not all weights .* Missing")
    torch.save(wrapped(whole), path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused("cannot be read")
    torch.save({**wrapped(whole), "hook": Runs(folder / "ran")}, path)
    refused("more than tensors and plain values")
    assert not (folder / "ran").exists()
    path.unlink()
    refused("cannot be read: .*No such file")
    with pytest.raises(ModelError, match=r"in the hub's cache .* hf download somebody/something"):
        build("somebody/something").load_pretrained()
