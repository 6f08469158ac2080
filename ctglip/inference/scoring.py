"""Embeddings to answers: which organ, and how much more like "has it" than like "has it not".

A score is the softmax over a positive and a negative prompt set, embeddings averaged within a set:
``p = sigmoid(scale * (cos(v, positive) - w cos(v, negative)) + bias)``. ``scale`` is the learned inverse temperature,
``bias`` 0 and ``w`` 1 until they are fitted on the validation split.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field

from ctglip.config import Settings
from ctglip.models.heads import group_directions
from ctglip.models.release import Release
from ctglip.vocabulary.abnormalities import AbnormalityDictionary, load_abnormalities
from ctglip.vocabulary.organs import OrganDictionary, load_organs
from ctglip.vocabulary.prompts import (
    load_abnormality_templates,
    load_organ_templates,
    negative_prompts,
    organ_prompts,
    positive_prompts,
)

Pair = tuple[str, str]
"""(organ, abnormality)"""
PromptSet = tuple[tuple[str, ...], tuple[str, ...]]
"""The positive and the negative prompts of a pair."""


Wording = Literal["dictionary", "single", "present", "organ_shows"]
"""The dictionary's ensembles, or one prompt a side as public scripts have them: "X." and "Not X."; "X is present." and
"X is not present."; "The lung shows: X." and "The lung shows: Not X."."""

_SINGLE = {
    "single": ("{Name}.", "Not {name}."),
    "present": ("{Name} is present.", "{Name} is not present."),
    "organ_shows": ("The {organ} {shows}: {Name}.", "The {organ} {shows}: Not {name}."),
}


class Calibration(Settings):
    """``model/calibration.json``: how a difference of similarities becomes a probability.

    Attributes:
        scale, bias: ``p = sigmoid(scale * difference + bias)``.
        negative_weight: how much similarity with the negative prompts takes away from that with the positive ones.
            "No X" is said of normal organs above all, so a model may take it for "normal", which an organ with another
            abnormality is not.
        fitted_on: what they were fitted on, or None for the learned temperature as it is.
        answers: how many yes/no answers they were fitted on.
        learned_scale: the inverse temperature of training, for comparison.
        thresholds: ``organ:abnormality`` to the probability from which on the answer is yes (best F1 there).
        observations: the same for radiographs that are read by their observations.
    """

    scale: float = 1.0
    bias: float = 0.0
    negative_weight: float = 1.0
    fitted_on: str | None = None
    answers: int = 0
    learned_scale: float = 1.0
    thresholds: dict[str, float] = Field(default_factory=dict)
    observations: Calibration | None = None

    def probabilities(self, differences: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Probabilities of differences of similarities."""
        return 1.0 / (1.0 + np.exp(-(self.scale * differences + self.bias)))


@dataclass(frozen=True)
class Dictionaries:
    """The two dictionaries as a model carries them."""

    organs: OrganDictionary
    abnormalities: AbnormalityDictionary


def dictionaries_of(release: Release) -> Dictionaries:
    """The dictionaries of a model."""
    organs = load_organs(release.organ_dictionary / "organs.yaml")
    return Dictionaries(organs, load_abnormalities(release.abnormality_dictionary / "abnormalities.yaml", organs))


class Scorer:
    """A model's prompts, embedded once.

    Args:
        release: the model.
        custom_prompts: prompts in place of the dictionary's, for some pairs; an empty side keeps the dictionary's.
        wording: in what words is asked where ``own`` has none.
        observes: radiographs are read by their observations, which have a space with texts of their own: the best of
        them
            answers.

    Attributes:
        dictionaries, templates, calibration: those of the model.
    """

    def __init__(
        self,
        release: Release,
        custom_prompts: Mapping[Pair, PromptSet] | None = None,
        wording: Wording = "dictionary",
        observes: bool = False,
    ) -> None:
        self.release = release
        self.custom_prompts = dict(custom_prompts or {})
        self.wording: Wording = wording
        self.dictionaries = dictionaries_of(release)
        self.observes = observes
        self.calibration = Calibration.model_validate(release.calibration)
        if observes:
            learned = self.calibration.learned_scale
            plain = Calibration(scale=learned, learned_scale=learned)
            self.calibration = self.calibration.observations or plain
        self._organ_templates = load_organ_templates(release.organ_dictionary / "templates.yaml")
        self.templates = load_abnormality_templates(release.abnormality_dictionary / "templates.yaml")
        self._sides: dict[Pair, Float[np.ndarray, "2 e"]] = {}

    def organ_prompts(self) -> list[tuple[str, ...]]:
        """The prompts of each of the release's organs."""
        organs = self.dictionaries.organs
        return [organ_prompts(organs[name], self._organ_templates) for name in self.release.organs]

    def prompts(self, pair: Pair) -> PromptSet:
        """The positive and the negative prompts of a pair.

        Raises:
            VocabularyError: an organ or abnormality that the dictionaries do not hold.
        """
        organ = self.dictionaries.organs[pair[0]]
        abnormality = self.dictionaries.abnormalities[pair[1]]
        positive, negative = self.custom_prompts.get(pair, ((), ()))
        if self.wording == "dictionary":
            positive = positive or positive_prompts(abnormality, organ, self.templates)
            return positive, negative or negative_prompts(abnormality, organ, self.templates)
        yes, no = _SINGLE[self.wording]
        name = abnormality.display
        values = {"name": name, "Name": name[:1].upper() + name[1:], "organ": organ.display}
        values["shows"] = "show" if organ.plural else "shows"
        return positive or (yes.format(**values),), negative or (no.format(**values),)

    def recognise(self, anatomy: Float[np.ndarray, "m e"]) -> Int[np.ndarray, " m"]:
        """For each organ the index (in ``release.organs``) of the name that is nearest to it."""
        classes = self.directions(self.organ_prompts())
        return np.asarray((anatomy @ classes.T).argmax(axis=1))

    @property
    def negative_weight(self) -> float:
        """How much negative prompts count: as calibrated; in full in the wordings of public protocols."""
        return self.calibration.negative_weight if self.wording == "dictionary" else 1.0

    def for_global_images(self) -> Scorer:
        """The same questions to whole radiographs."""
        return Scorer(self.release, self.custom_prompts, self.wording) if self.observes else self

    def differences(self, diagnosis: Float[np.ndarray, "m *q e"], pairs: Sequence[Pair]) -> Float[np.ndarray, "m p"]:
        """Similarity with the positive prompts minus (weighted) similarity with the negative ones; of observations
        those that are most like each."""
        if diagnosis.ndim == 2:
            return (diagnosis @ self.axes(pairs).T).astype(np.float64)
        positive, negative = (alike(diagnosis, side) for side in self.sides(pairs))
        return (positive - self.negative_weight * negative).astype(np.float64)

    def axes(self, pairs: Sequence[Pair]) -> Float[np.ndarray, "p e"]:
        """The direction of each pair: that of its positive minus (weighted) that of its negative prompts."""
        positive, negative = self.sides(pairs)
        return positive - np.float32(self.negative_weight) * negative

    def sides(self, pairs: Sequence[Pair]) -> Float[np.ndarray, "2 p e"]:
        """The directions of the positive and of the negative prompts of each pair."""
        self._embed(pairs)
        width = self.release.model.settings.embedding_dim
        found = [self._sides[pair] for pair in pairs]
        return np.stack(found, axis=1) if found else np.zeros((2, 0, width), dtype=np.float32)

    def similarities(self, diagnosis: Float[np.ndarray, "*q e"], texts: Sequence[str]) -> Float[np.ndarray, " n"]:
        """Cosine similarity of one organ's diagnosis vector (or the best of its observations) with texts."""
        return alike(diagnosis[None], self.directions([(text,) for text in texts]))[0]

    def _embed(self, pairs: Iterable[Pair]) -> None:
        missing = [pair for pair in dict.fromkeys(pairs) if pair not in self._sides]
        if not missing:
            return
        directions = self.directions([texts for pair in missing for texts in self.prompts(pair)])
        for position, pair in enumerate(missing):
            self._sides[pair] = directions[2 * position : 2 * position + 2]

    @torch.no_grad()
    def directions(self, sets: Sequence[Sequence[str]]) -> Float[np.ndarray, "s e"]:
        """One unit vector for each set of texts: the mean of their unit vectors, at unit length."""
        model = self.release.model
        texts = list(dict.fromkeys(text for texts in sets for text in texts))
        position = {text: number for number, text in enumerate(texts)}
        head = model.text
        if self.observes:
            assert model.resampler is not None
            head = model.resampler.textual
        vectors = head(self.release.embed(texts).to(next(model.parameters()).device))
        rows = torch.tensor([position[text] for texts in sets for text in texts], device=vectors.device)
        group = torch.tensor([number for number, texts in enumerate(sets) for _ in texts], device=vectors.device)
        return group_directions(vectors[rows], group, len(sets)).float().cpu().numpy()


def alike(diagnosis: Float[np.ndarray, "m *q e"], directions: Float[np.ndarray, "s e"]) -> Float[np.ndarray, "m s"]:
    """Cosine similarities of organs with directions; of several observations the best."""
    found = diagnosis @ directions.T
    return found if found.ndim == 2 else found.max(1)
