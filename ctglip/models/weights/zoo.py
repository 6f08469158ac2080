"""Weights that timm and torchvision have of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ctglip.errors import ModelError
from ctglip.models.weights.reading import State, read_state
from ctglip.resources import require

_PLAIN = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def timm_weights(name: str) -> State:
    """Those of a timm model, downloaded where there is no copy on this machine. Nothing in a file is run.

    Raises:
        ModelError: code ``weights``: no such model, no copy and no network, or a file with more than weights.
    """
    timm = require("timm", extra="cxr")
    try:
        with _plain_values_alone():
            return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # whatever timm, the hub and the network have to say
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"timm's weights of {name!r} cannot be had: {first}",
            code="weights",
            fix="Fetch them once where there is a network, or name a file.",
        ) from error


def torchvision_weights(model: str, name: str = "DEFAULT") -> State:
    """Those of a torchvision model of which there is a copy on this machine.

    Raises:
        ModelError: code ``weights``: no such model or weights, or no copy of them.
    """
    from torchvision.models import get_model_weights

    try:
        known = get_model_weights(model)
    except ValueError as error:
        raise ModelError(f"torchvision has no model {model!r}.", code="weights", fix="Try resnet50.") from error
    if name not in known.__members__:
        names = ", ".join(known.__members__)
        raise ModelError(f"torchvision has no weights {name!r} of {model}.", code="weights", fix=f"Known: {names}.")
    url = known[name].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.is_file():
        raise ModelError(
            f"There is no copy of torchvision's {known[name].name} of {model} on this machine ({path}).",
            code="weights",
            fix=f"Fetch it where there is a network: {url}",
        )
    return read_state(path)


@contextmanager
def _plain_values_alone() -> Iterator[None]:
    """Whatever reads PyTorch files meanwhile reads plain values alone."""
    before = os.environ.get(_PLAIN)
    os.environ[_PLAIN] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_PLAIN]
        else:
            os.environ[_PLAIN] = before
