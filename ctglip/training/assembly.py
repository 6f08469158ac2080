"""The parts of a run put together: data, text bank, model, objective, and the release that it will become."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ctglip.data.organs import OrganDataset
from ctglip.data.sampling import BalancedSampler
from ctglip.errors import ModelError, StoreError
from ctglip.features.text_bank import TextBank
from ctglip.inference.scoring import Dictionaries, Scorer
from ctglip.models.release import Release, load_release
from ctglip.models.text import load_text_encoder
from ctglip.models.towers import OrganTextModel
from ctglip.objectives.organ_text import OrganText
from ctglip.resources import resource
from ctglip.store.tables import Store
from ctglip.training.recipe import PretrainConfig
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs


@dataclass
class Assembly:
    """What a run works with.

    Attributes:
        dataset: the training split.
        sampler: which rows meet in a batch.
        objective: on its device.
        release: the model in training with all that travels with it.
        dictionaries: those that the store was made with.
    """

    dataset: OrganDataset
    sampler: BalancedSampler
    objective: OrganText
    release: Release
    dictionaries: Dictionaries

    def batch(self, step: int) -> Any:
        """The batch of a step: the same for the same seed, whatever came before."""
        rng = self.sampler.rng(step)
        rows = self.sampler.rows(rng)
        return self.objective.collate(self.dataset.samples(rows, rng))


def shipped_dictionaries(store: Store) -> Dictionaries:
    """The shipped dictionaries, if the store's label numbers are theirs.

    Raises:
        StoreError: code ``other_dictionary``.
    """
    organs = load_organs()
    mine = organs.label_names()
    different = [str(number) for number, name in store.info.labels.items() if mine.get(number) != name]
    if different:
        raise StoreError(
            f"{store.path} numbers its organs in another way (labels {', '.join(different[:5])}).",
            code="other_dictionary",
            fix="Preprocess the cohort again with this version.",
        )
    return Dictionaries(organs, load_abnormalities())


def assemble(
    store: Store,
    run: Path,
    config: PretrainConfig,
    device: str,
    progress: Callable[[int, int], None] | None = None,
) -> Assembly:
    """Build everything; the same config and store give the same weights and batches.

    Args:
        store: the store to train on.
        run: the run's folder; embeddings of texts are kept in its ``text_bank/``.
        config: the run's config.
        device: where the objective lives.
        progress: called with (studies done, studies) while crops are cut.
    """
    dictionaries = shipped_dictionaries(store)
    organs, abnormalities = dictionaries.organs, dictionaries.abnormalities
    dataset = OrganDataset(store, "train", organs, abnormalities, config.data, config.seed, progress)
    encoder = load_text_encoder(config.text)
    bank = TextBank(run / "text_bank", encoder)
    names = tuple(name for name in organs.names if organs.grounding_labels(name))
    torch.manual_seed(config.seed)
    shape = {"in_channels": config.data.crops.channels, "text_dim": encoder.dim}
    model = OrganTextModel(config.model.model_copy(update=shape))
    if config.initial is not None:
        _start_from(Path(config.initial), model, encoder.hash, config.data.crops.model_dump(mode="json"))
    release = Release(
        model=model,
        organs=names,
        recipe=store.info.recipe,
        crops=config.data.crops.model_dump(mode="json"),
        organ_dictionary=resource("organ_dictionary"),
        abnormality_dictionary=resource("abnormality_dictionary"),
        text_settings=config.text,
        text_hash=encoder.hash,
        text_encoder=encoder,
    )
    prompts = Scorer(release).organ_prompts()
    _fill_prompts(release, bank, dataset)
    ids = bank.ids([text for texts in prompts for text in texts])
    owner = torch.tensor([number for number, texts in enumerate(prompts) for _ in texts])
    objective = OrganText(model, bank, ids, owner, config.objective).to(device)
    dataset.bind(bank.ids(dataset.texts).tolist(), names)
    sampler = BalancedSampler(dataset.sayings, config.sampling, config.seed)
    return Assembly(dataset, sampler, objective, release, dictionaries)


def _start_from(folder: Path, model: OrganTextModel, text_hash: str, crops: dict[str, Any]) -> None:
    """Copy a trained model's weights.

    Raises:
        ModelError: code ``initial``: it sees other crops, reads another text encoder, or has another shape.
    """
    before = load_release(folder)
    if before.crops != crops or before.text_hash != text_hash:
        raise ModelError(
            f"{folder} was trained with other crops or another text encoder.",
            code="initial",
            fix="Use its data.crops and text settings.",
        )
    try:
        model.load_state_dict(before.model.state_dict())
    except RuntimeError as error:
        raise ModelError(
            f"{folder} holds a model of another shape: {str(error).splitlines()[0]}",
            code="initial",
            fix="Use its model settings.",
        ) from error


def _fill_prompts(release: Release, bank: TextBank, dataset: OrganDataset) -> None:
    """Embed the dictionary's prompts for all organs, and for every question about a trained organ."""
    scorer = Scorer(release)
    trained = {said.organ for said in dataset.sayings}
    pairs = [pair for pair in scorer.dictionaries.abnormalities.pairs() if pair[0] in trained]
    texts = [text for texts in scorer.organ_prompts() for text in texts]
    texts += [text for pair in pairs for side in scorer.prompts(pair) for text in side]
    texts = list(dict.fromkeys(texts))
    release.prompts = dict(zip(texts, bank.vectors(bank.ids(texts)), strict=True))
