"""What happens to a study whose scan or masks are not what they claim to be."""

from __future__ import annotations

from collections.abc import Iterable

from ctglip.ct import quality
from ctglip.types import QualityCheck
from ctglip_preprocessing.settings import PreprocessConfig

_FIX = "Look at the source; to keep such studies set error_checks: keep and run again with --retry-failed."


def refuse_errors(checks: Iterable[QualityCheck], config: PreprocessConfig) -> None:
    """Let a study pass, or not.

    Raises:
        ScanError: with the code of the first check of severity ``error``, unless the settings keep such studies.
    """
    if config.error_checks != "keep":
        quality.refuse_errors(checks, _FIX)
