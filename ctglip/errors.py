"""The errors that a user can cause or meet. Each names what, where, what was found, and what to do."""

from __future__ import annotations


class CTGLIPError(ValueError):
    """A fault of the input, not of the program: the command line turns it into exit code 2, a batch job into a row.

    Args:
        message: one line: what, where, what was found, what was expected.
        code: short machine-readable reason, e.g. ``"image_truncated"``; it ends up in the journal and the tables.
        fix: what the user can do about it, one sentence.
    """

    default_code = "error"

    def __init__(self, message: str, *, code: str | None = None, fix: str = "") -> None:
        message = " ".join(message.splitlines())  # what is quoted may hold line breaks
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message} {self.fix}".strip()

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.code, self.fix))


def _rebuild(kind: type[CTGLIPError], message: str, code: str, fix: str) -> CTGLIPError:
    return kind(message, code=code, fix=fix)


class ConfigError(CTGLIPError):
    """A setting that is unknown, of the wrong type, or at odds with another."""

    default_code = "config"


class CohortError(CTGLIPError):
    """A cohort or label table that cannot be read at all (a bad row is a row, not an error)."""

    default_code = "cohort"


class ScanError(CTGLIPError):
    """An image that cannot become a volume."""

    default_code = "scan"


class MaskError(CTGLIPError):
    """Masks that cannot be laid on their image."""

    default_code = "masks"


class ReportError(CTGLIPError):
    """A report that says nothing."""

    default_code = "report"


class StoreError(CTGLIPError):
    """A store that is missing, damaged, or of another format version."""

    default_code = "store"


class OutputError(CTGLIPError):
    """A place that cannot be written: no fault of what was to be written there, so a batch job stops at it."""

    default_code = "cannot_write"


class VocabularyError(CTGLIPError):
    """An organ or abnormality that the dictionaries do not know, or a dictionary that contradicts itself."""

    default_code = "vocabulary"


class ModelError(CTGLIPError):
    """A run or model folder that cannot be loaded, or a model that is asked for what it was not trained for."""

    default_code = "model"


class MissingExtraError(CTGLIPError):
    """A package that an optional feature needs is not installed."""

    default_code = "missing_extra"
