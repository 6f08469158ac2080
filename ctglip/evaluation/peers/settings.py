"""How the evaluation of a peer is done."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ctglip.config import RootSettings


class PeerEvaluateConfig(RootSettings):
    """One zero-shot evaluation of a peer by a public protocol.

    Attributes:
        seed: of the bootstrap.
        draws: bootstrap draws of patients.
        min_positives: a finding with fewer positives, or fewer negatives, is not evaluated.
        protocol: which public protocol (see ``evaluation.parts.protocol``); none: the card's.
        studies: file with one study id a line: evaluate these of the split alone.
        ignore: columns of the label table that are no labels.
        device: ``auto`` takes a GPU where there is one.
    """

    kind: Literal["evaluate_peer"] = "evaluate_peer"
    seed: int = 0
    draws: int = Field(default=1000, ge=10)
    min_positives: int = Field(default=3, ge=1)
    protocol: str | None = None
    studies: str | None = None
    ignore: tuple[str, ...] = ()
    device: Literal["auto", "cpu", "cuda"] = "auto"
