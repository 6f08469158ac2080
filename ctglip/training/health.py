"""Training that has gone astray stops, and says at which batch and with which studies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from ctglip.errors import ModelError

_RANK = "image_rank"
_OTHERS = "negative_similarity"
_LEAST_RANK = 1.2
_MOST_ALIKE = 0.98
_LISTED = 8


def not_finite(losses: Mapping[str, Tensor], step: int, studies: Sequence[str], half: str | None = None) -> ModelError:
    """The error of a batch whose loss or gradient is not a number, code ``not_finite``; ``step`` steps were done.

    ``half``: the kind of device that counted in half precision, if one did.
    """
    values = {name: float(value.detach()) for name, value in losses.items()}
    return ModelError(
        f"The loss or its gradient is not a number at step {step + 1} (losses {values}, {_named(studies)}).",
        code="not_finite",
        fix="Lower optim.lr, or look at those studies."
        if half is None
        else f"Half precision may be at fault (on a {half.upper()}): set loop.precision=fp32; else lower optim.lr.",
    )


class Collapse:
    """Watches for embeddings that no longer tell one image from another.

    The sign is an effective rank near 1, or a text of another row as similar as the own one (both nearly the same for
    all), at every look for some steps on end.

    Args:
        after: steps on end; 0 never stops.
    """

    def __init__(self, after: int) -> None:
        self.after = after
        self._since: int | None = None

    def check(self, step: int, values: Mapping[str, float], rows: int, studies: Sequence[str]) -> None:
        """Look at the numbers that an objective reported of a batch.

        Args:
            step: steps done.
            values: the report; names may have a part's name before them.
            rows: rows of the batch; a rank says nothing of fewer than eight.
            studies: of the batch.

        Raises:
            ModelError: code ``collapsed``.
        """
        ranks = [value for name, value in values.items() if name.rsplit("/", 1)[-1] == _RANK]
        alike = [value for name, value in values.items() if name.rsplit("/", 1)[-1] == _OTHERS]
        low = rows >= 8 and any(math.isfinite(rank) and rank < _LEAST_RANK for rank in ranks)
        if not (low or any(value > _MOST_ALIKE for value in alike)):
            self._since = None
            return
        self._since = step if self._since is None else self._since
        if self.after and step - self._since >= self.after:
            raise ModelError(
                f"The embeddings have collapsed: since step {self._since} the effective rank of a batch is "
                f"{min(ranks, default=math.nan):.2f}, and other texts are as near as the own one "
                f"({max(alike, default=math.nan):.3f}); last seen at step {step} with {_named(studies)}.",
                code="collapsed",
                fix="Lower optim.lr, give the objective negatives, or set loop.collapse_after=0 to go on.",
            )


def _named(studies: Sequence[str]) -> str:
    if not studies:
        return "studies unknown"
    listed = list(dict.fromkeys(studies))
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return f"studies {', '.join(listed[:_LISTED])}{more}"
