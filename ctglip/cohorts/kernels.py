"""Which reconstruction kernels are soft, by the names that makers of scanners give them."""

from __future__ import annotations

import re

_SOFT = re.compile(r"standard|soft|^(?:b|br|bf|bv|i|qr)[234]\d|fc(?:0\d|1\d)|^[abc]$|^stnd$", re.IGNORECASE)


def is_soft(kernel: str) -> bool:
    """Whether a kernel, or a word of a series' description, is one for soft tissue."""
    return _SOFT.search(kernel.strip()) is not None
