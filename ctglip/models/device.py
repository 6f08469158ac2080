"""Where a model is put."""

from __future__ import annotations

import torch

from ctglip.errors import ConfigError


def resolve_device(requested: str) -> str:
    """``auto`` becomes ``cuda`` where there is a GPU, else ``cpu``.

    Raises:
        ConfigError: ``cuda`` without a GPU.
    """
    if requested == "cuda" and not torch.cuda.is_available():
        raise ConfigError("The config asks for cuda, but torch sees no GPU.", fix="Set device to auto or cpu.")
    return ("cuda" if torch.cuda.is_available() else "cpu") if requested == "auto" else requested
