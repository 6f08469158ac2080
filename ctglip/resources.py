"""Where the data folders are (dictionaries, configs): in a checkout or inside the installed wheel alike."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from ctglip.errors import CTGLIPError, MissingExtraError

_PACKAGE = Path(__file__).resolve().parent


def resource(*parts: str) -> Path:
    """Path of a shipped file or folder, e.g. ``resource("organ_dictionary", "organs.yaml")``.

    Raises:
        CTGLIPError: code ``missing_resource`` when it is not there.
    """
    for root in (_PACKAGE / "_resources", _PACKAGE.parent):
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise CTGLIPError(
        f"The shipped file {'/'.join(parts)} is missing from {_PACKAGE.parent}.",
        code="missing_resource",
        fix="Reinstall ctglip.",
    )


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it.

    Raises:
        MissingExtraError: when the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"This needs the package {module!r}, which is not installed.",
            fix=f"Install it with: pip install 'ctglip[{extra}]'",
        ) from error
