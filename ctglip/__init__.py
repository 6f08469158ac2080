"""ctglip: organ-level grounded vision-language pretraining on CT scans and their reports.

``ctglip.load_model(run).query(scan, questions)`` asks a trained model; everything else is imported from the module
that defines it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctglip.api import load_model

__version__ = "0.1.0"
__all__ = ["__version__", "load_model"]


def __getattr__(name: str) -> Any:
    if name == "load_model":
        from ctglip.api import load_model

        return load_model
    raise AttributeError(f"module 'ctglip' has no attribute {name!r}")
