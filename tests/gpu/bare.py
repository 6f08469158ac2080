"""Losses need torch and einops; the shapes in their types need jaxtyping, which a bare GPU machine may lack."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch

try:
    import jaxtyping  # noqa: F401
except ImportError:

    class _Shaped:
        def __class_getitem__(cls, _: Any) -> type[torch.Tensor]:
            return torch.Tensor

    stand_in = ModuleType("jaxtyping")
    stand_in.__getattr__ = lambda _: _Shaped  # pyright: ignore[reportAttributeAccessIssue]
    sys.modules["jaxtyping"] = stand_in
