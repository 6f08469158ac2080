"""Files of weights: where they are, and what is in them. Nothing is fetched, and nothing in a file is run."""

from __future__ import annotations

import pickle
import re
import zipfile
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ctglip.errors import ModelError
from ctglip.gate import reads

State = dict[str, Tensor]
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(/.+)?")
_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
_REFUSED = re.compile(r"GLOBAL (\S+)|Unsupported (?:class|operand|global)[: ]+(?:GLOBAL )?(\S+)")


@cache
def safe_types() -> tuple[Any, ...]:
    """What a PyTorch file may hold beside tensors and plain values: values that do nothing when they are made.

    Arguments of a training script, paths, NumPy's arrays and scalars under the names of NumPy 1 and 2.
    """
    scalar, array = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    names = [(made, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core")
             for made, name in ((scalar, "scalar"), (array, "_reconstruct"))]  # fmt: skip
    kinds = (np.float64, np.float32, np.float16, np.int64, np.int32, np.uint8, np.bool_)
    dtypes = {type(np.dtype(kind)) for kind in kinds}
    return (*names, np.dtype, np.ndarray, *sorted(dtypes, key=str), Namespace, PurePosixPath,
            (PurePosixPath, "pathlib.PosixPath"))  # fmt: skip


def find_weights(source: str, repository: str | None = None, files: Sequence[str] = ()) -> Path:
    """The file that a setting names: a file, a folder that holds one of some names, or the hub's copy on this machine.

    Args:
        source: ``folder/weights.pth``; ``folder``; a hub's ``owner/name``; or ``owner/name/file``.
        repository: where the hub has the released weights; none: nowhere.
        files: names of released files, the usual one first.

    Raises:
        ModelError: code ``weights``: there is no such file, and no copy of the hub's.
    """
    path = Path(source)
    if path.is_dir():
        found = [path / name for name in files if (path / name).is_file()]
        if not found:
            raise ModelError(f"The folder {path} holds none of {', '.join(files)}.", code="weights", fix="Name a file.")
        return found[0]
    local = path.suffix in _SUFFIXES and source.count("/") < 2
    if path.is_file() or local or not _HUB_NAME.fullmatch(source):
        return path
    name = "/".join(source.split("/")[:2])
    inside = source.removeprefix(name).strip("/")
    known = files if name == repository or not files else ()
    for file in [inside] if inside else known or ("model.safetensors", "pytorch_model.bin"):
        copy = try_to_load_from_cache(name, file)
        if isinstance(copy, str):
            return Path(copy)
    expected = inside or (known or ("model.safetensors",))[0]
    raise ModelError(
        f"{source} is no file, and {name} has no {expected} in the hub's cache here ({constants.HF_HUB_CACHE}).",
        code="weights",
        fix=f"Fetch it where there is a network: hf download {name} {expected}",
    )


@reads(ModelError, "weights", "Copy it again.")
def read_state(path: Path) -> State:
    """All tensors of a safetensors or PyTorch file, nested dictionaries under dotted names. Pickled code never runs.

    Args:
        path: the file.

    Raises:
        ModelError: code ``weights``: missing, broken, or something other than weights.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(list(safe_types())):
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from error
    except MemoryError as error:
        size = path.stat().st_size
        raise ModelError(
            f"The weights {path} ask for more memory than there is, and the file has {size} bytes.",
            code="weights",
            fix="Copy it again, or take a machine with more memory.",
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, SafetensorError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"The weights {path} cannot be read: {first}", code="weights", fix="Copy it again.") from error
    return dict(_tensors(found, ""))


def _refused(path: Path, error: Exception) -> ModelError:
    """A file that is broken, or that holds what is more than values."""
    named = _REFUSED.search(str(error))
    what = f" ({next(filter(None, named.groups()))})" if named else ""
    return ModelError(
        f"The weights {path} cannot be read: they are broken, or hold more than tensors and plain values{what}.",
        code="weights",
        fix="Copy the file again, or save its state dict alone as safetensors where you trust it (docs/weights.md).",
    )


def _tensors(value: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield prefix.removesuffix("."), value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _tensors(inner, f"{prefix}{name}.")
