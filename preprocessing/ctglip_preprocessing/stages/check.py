"""What happens to a study whose scan or masks are not what they claim to be."""

from __future__ import annotations

from collections.abc import Iterable

from ctglip.errors import ScanError
from ctglip.types import QualityCheck
from ctglip_preprocessing.settings import PreprocessConfig


def refuse_errors(checks: Iterable[QualityCheck], config: PreprocessConfig) -> None:
    """Let a study pass, or not.

    Raises:
        ScanError: with the code of the first check of severity ``error``, unless the settings keep such studies.
    """
    wrong = [check for check in checks if check.severity == "error"]
    if not wrong or config.error_checks == "keep":
        return
    raise ScanError(
        " ".join(check.message for check in wrong),
        code=wrong[0].code,
        fix="Look at the source; to keep such studies set error_checks: keep and run again with --retry-failed.",
    )
