"""What an objective knows of sentences by their number: how rare they are, which say the same, which contradict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ctglip.data.report_texts import Claim, Spoken
from ctglip.features.text_bank import TextBank
from ctglip.losses.mentions import Mentions

_LEAST = 1e-3
"""Weight of a sentence that every report has."""


class SentenceBook(nn.Module):
    """A table over the sentences of the training reports; others are as rare as the rarest and say nothing.

    Memory: a byte for each sentence and each pair of organ and abnormality, twice.

    Args:
        bank: gives sentences their numbers.
        spoken: what is known of them, by text.
        same: sentences say the same where their text is equal, or where they affirm and deny the same ``findings``.
        rarity: weight is (log 1/share, over that of the rarest) to this power, where the share is that of the reports
            that say the same.
    """

    row: Tensor
    share: Tensor
    key: Tensor
    weight: Tensor
    affirmed: Tensor
    denied: Tensor

    def __init__(self, bank: TextBank, spoken: Mapping[str, Spoken], same: str = "text", rarity: float = 0.0) -> None:
        super().__init__()
        told = dict(spoken)
        ids = bank.ids(list(told)) if told else torch.zeros(0, dtype=torch.long)
        row = torch.full((int(ids.max()) + 1 if len(ids) else 1,), -1)
        row[ids] = torch.arange(len(ids))
        keys = [_key(text, said, same) for text, said in told.items()]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        shares: Counter[object] = Counter()
        for key, said in zip(keys, told.values(), strict=True):
            shares[key] += said.share  # pyright: ignore[reportArgumentType]
        share = torch.tensor([min(float(shares[key]), 1.0) for key in keys])
        rare = -share.clamp(min=1e-9).log()
        rare = rare / rare.max().clamp(min=1e-9) if len(rare) else rare
        affirmed, denied = _claims(told)
        for name, value in {
            "row": row,
            "share": share,
            "key": torch.tensor([numbers[key] for key in keys], dtype=torch.long),
            "weight": rare.clamp(min=_LEAST) ** rarity,
            "affirmed": affirmed,
            "denied": denied,
        }.items():
            self.register_buffer(name, value, persistent=False)

    def common(self, ids: Int[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The share of the reports that say what these sentences say; 0 where that is not known."""
        return self._of(self.share, ids, 0.0)

    def mentions(self, ids: Int[Tensor, "b k"]) -> Mentions:
        """What is known of some sentences, -1 where there is none."""
        known = self._of(self.key, ids, -1)
        key = torch.where(known >= 0, known, ids + len(self.key)).where(ids >= 0, -1)
        weight = self._of(self.weight, ids, 1.0)
        return Mentions(key, weight, self._of(self.affirmed, ids, False), self._of(self.denied, ids, False))

    def _of(self, column: Tensor, ids: Tensor, other: float) -> Tensor:
        """A column for some sentences; ``other`` for those that the table has not."""
        out = column.new_full((*ids.shape, *column.shape[1:]), other)
        inside = (ids >= 0) & (ids < len(self.row))
        found = self.row[ids.where(inside, 0)].where(inside, -1)
        out[found >= 0] = column[found[found >= 0]]
        return out


def _key(text: str, said: Spoken, same: str) -> object:
    return (said.affirmed, said.denied) if same == "findings" and (said.affirmed or said.denied) else text


def _claims(spoken: Mapping[str, Spoken]) -> tuple[Tensor, Tensor]:
    """What each sentence affirms, and what it denies, of all that any sentence speaks of."""
    every: list[Claim] = sorted({claim for said in spoken.values() for claim in (*said.affirmed, *said.denied)})
    place = {claim: number for number, claim in enumerate(every)}
    tables = []
    for kind in ("affirmed", "denied"):
        table = torch.zeros(len(spoken), len(every), dtype=torch.bool)
        for row, said in enumerate(spoken.values()):
            table[row, [place[claim] for claim in getattr(said, kind)]] = True
        tables.append(table)
    return tables[0], tables[1]
