"""Settings of report generation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from ctglip.config import Settings

Baseline = Literal["normal", "neighbour", "classifier", "zero_shot"]


class LanguageSettings(Settings):
    """The causal language model that writes.

    Attributes:
        name: of a model on the hub (on this machine already), or a folder; None: a small one, trained from nothing on
            the passages of the training studies, with a wordpiece vocabulary of theirs.
        train: of a model that is named: all of it (``full``), or nothing but what brings the organs into it
            (``frozen``).
        width, layers, heads, dropout: of the small one.
        vocabulary: pieces of its vocabulary, at most.
    """

    name: str | None = None
    train: Literal["full", "frozen"] = "full"
    width: int = Field(default=128, ge=8)
    layers: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    vocabulary: int = Field(default=2000, ge=64)

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        if self.name is None:
            return {"train": "a model that begins from nothing is trained"}
        own = ("width", "layers", "heads", "dropout", "vocabulary")
        return dict.fromkeys(own, "the language model of name has its own")


class WritingSettings(Settings):
    """How passages are written once a model is trained.

    Attributes:
        beams: passages that are followed at a time, of which the likeliest is taken; 1: the likeliest next piece.
        temperature: 0 takes what is likeliest; above, passages are drawn, the more freely the higher it is.
        candidates: passages of which ``constrain`` takes one.
        constrain: ``dictionary``: of several passages the first that the dictionary does not contradict: it says
            nothing of another organ or side, nothing that the organ cannot have, not the same affirmed and denied, and
            no two that exclude each other; where all are contradicted, the sentences of the first that are not.
        seed: of passages that are drawn.
    """

    beams: int = Field(default=1, ge=1, le=32)
    temperature: float = Field(default=0.0, ge=0)
    candidates: int = Field(default=4, ge=1, le=32)
    constrain: Literal["none", "dictionary"] = "none"
    seed: int = 0

    def unread(self) -> Mapping[str, str]:
        """Fields that nothing reads."""
        found = {} if self.temperature else {"seed": "temperature is 0, and nothing is drawn"}
        return found if self.constrain != "none" else {**found, "candidates": "constrain is none"}


class ReportTaskSettings(Settings):
    """What is written, and from what.

    Attributes:
        condition: ``prefix``: an organ stands before the words as a few tokens. ``cross_attention``: the words look at
            them in every layer (of the small language model, and of those that offer it, as GPT-2).
        tokens: that an organ's features become.
        length: pieces of a passage, at most.
        least: training passages that an organ needs to be written about.
        abnormal: how much a passage that affirms something weighs beside one that does not.
        unmentioned: what an organ teaches that is in the scan and not in its report: the dictionary's normal
            sentence (``normal``), an empty passage (``silent``), or nothing (``skip``).
        sections: of the reports, in the order in which they are looked at for an organ's passage.
        language: the language model.
        writing: how it writes.
        baselines: what is measured beside it, on the same studies. ``normal``: every organ is normal. ``neighbour``:
            the passages of the training study whose organs look most like these. ``classifier``: a logistic regression
            for each abnormality that enough training passages affirm, its threshold from the validation split, and the
            dictionary's sentences. ``zero_shot``: the same from the model's own answers.
    """

    condition: Literal["prefix", "cross_attention"] = "prefix"
    tokens: int = Field(default=4, ge=1)
    length: int = Field(default=64, ge=8)
    least: int = Field(default=4, ge=1)
    abnormal: float = Field(default=1.0, gt=0)
    unmentioned: Literal["silent", "normal", "skip"] = "normal"
    sections: tuple[Literal["findings", "impression"], ...] = Field(default=("findings", "impression"), min_length=1)
    language: LanguageSettings = LanguageSettings()
    writing: WritingSettings = WritingSettings()
    baselines: tuple[Baseline, ...] = ("normal", "neighbour", "classifier", "zero_shot")
