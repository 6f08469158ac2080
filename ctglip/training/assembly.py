"""The parts of a run put together: data, text bank, model, objective, and the release that it will become."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from ctglip.config import Settings
from ctglip.data.caption_tables import Taught
from ctglip.data.dataset import TextDataset
from ctglip.data.derived import DERIVED
from ctglip.data.organs import CropDataSettings
from ctglip.data.reader import CachedReader
from ctglip.data.studies import StudyDataset
from ctglip.data.tokens import TokenDataSettings, open_tokens
from ctglip.errors import ModelError, StoreError
from ctglip.features.text_bank import TextBank
from ctglip.files import user_cache
from ctglip.inference.encoding import evaluating
from ctglip.inference.scoring import Dictionaries, Scorer
from ctglip.losses.gather import one_rank
from ctglip.models.dual_encoder import DualEncoder, DualEncoderSettings
from ctglip.models.encoders.base import Encoder
from ctglip.models.encoders.cached import CachedEncoder, encoder_hash
from ctglip.models.encoders.probe import check_probe
from ctglip.models.region_readers import REGION_READERS, ModelInputs
from ctglip.models.release import Release, load_release
from ctglip.models.text import TextEncoder, load_text_encoder
from ctglip.objectives.base import BuildContext, Objective, StepContext
from ctglip.objectives.mixture import Mixture
from ctglip.objectives.registry import OBJECTIVES, MixtureSettings, needs_of, parts_of
from ctglip.places import cache_of
from ctglip.reports.tags import tag_entries
from ctglip.resources import resource
from ctglip.store.tables import Store
from ctglip.training.pretrain_config import DATA, AnyDataSettings, PretrainConfig
from ctglip.training.sources import open_source
from ctglip.types import Failure, Progress
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import OrganDictionary, load_organs
from ctglip.vocabulary.prompts import normal_prompts

TEXTS = f"{DERIVED}/texts"
"""Where the embeddings of a store's texts are kept, for all runs."""


@dataclass
class Assembly:
    """What a run works with.

    Attributes:
        sources: what each part of the objective is fed with, by the part's name.
        objective: on its device.
        release: the model in training with all that travels with it.
        dictionaries: those that the store was made with.
        seed: of the run.
        rank, world: which share of each batch is made here.
        validation_sources: those of the split val, where the loss is measured on it.
        encoder: the frozen encoder of cached tokens, which is no part of the model while that is trained.
    """

    sources: dict[str, TextDataset[Any]]
    objective: Objective
    release: Release
    dictionaries: Dictionaries
    seed: int = 0
    rank: int = 0
    world: int = 1
    validation_sources: dict[str, StudyDataset] = field(default_factory=dict)
    encoder: Encoder | None = None

    def samples(self, step: int) -> Any:
        """The samples of a step (this rank's share): a list; of a mixture one for each part, by its name."""
        return self._samples(self.sources, step)

    def batch(self, step: int) -> Any:
        """The batch of a step (this rank's share): the same for the same seed, whatever came before."""
        return self.objective.collate(self.samples(step), StepContext(self.seed, step))

    def _samples(self, sources: Mapping[str, TextDataset[Any]], step: int) -> Any:
        by_source = {name: source.batch(step, self.rank, self.world) for name, source in sources.items()}
        return by_source if isinstance(self.objective, Mixture) else next(iter(by_source.values()))

    @torch.no_grad()
    def validation_loss(self, device: str) -> dict[str, float]:
        """The loss of the split val, ``val_loss``, and its terms: the mean over this rank's shares of batches as large
        as in training, images as they are."""
        count = max(source.steps for source in self.validation_sources.values())
        terms: dict[str, float] = {}
        with evaluating(self.objective), one_rank():
            for step in range(count):
                context = StepContext(self.seed, step)
                batch = self.objective.collate(self._samples(self.validation_sources, step), context)
                losses, _ = self.objective(batch.to(device), context)
                terms = {name: terms.get(name, 0.0) + float(loss) / count for name, loss in losses.items()}
        return {"val_loss": sum(terms.values()), **{f"val_loss_{name}": value for name, value in terms.items()}}

    def studies(self, step: int) -> list[str]:
        """The studies of a step's batch, of all ranks."""
        return list(dict.fromkeys(name for source in self.sources.values() for name in source.studies(step)))

    @property
    def taught(self) -> list[Taught]:
        """What each source teaches."""
        return [source.taught for source in self.sources.values()]

    @property
    def failures(self) -> list[Failure]:
        """Studies that could not be read so far."""
        found = {failure.study_id: failure for source in self.sources.values() for failure in source.failures}
        return list(found.values())

    def learned_scale(self) -> float:
        """The learned inverse temperature of the contrast with findings; 1 where there is none."""
        temperature = self.objective.diagnosis_scale
        return 1.0 if temperature is None else float(temperature().detach())


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
    progress: Progress | None = None,
    embedding: Progress | None = None,
    notify: Callable[[str], None] | None = None,
) -> Assembly:
    """Build everything; the same config and store give the same weights and batches.

    Args:
        run: the run's folder.
        config: the run's config.
        device: where the objective lives.
        progress, embedding: called with (studies done, studies) while crops are cut, (texts done, texts) while texts
            are embedded.
        notify: called with a sentence about texts that are longer than the text encoder reads at a time.

    Raises:
        ConfigError: the model's settings do not suit the objective.
        StoreError: the store has not what the objective is fed with.
        ModelError: weights to start from that cannot be had or do not fit.
    """
    dictionaries = shipped_dictionaries(store)
    organs = dictionaries.organs
    names = tuple(name for name in organs.names if organs.roi_labels(name))
    encoder = load_text_encoder(config.text)
    settings, inputs = model_parts(config, encoder.dim, organs, names)
    bank = TextBank(cache_of(store.path, TEXTS), encoder)

    def text_ids(texts: Sequence[str]) -> list[int]:
        long = encoder.describe_long(set(texts), "texts")
        if long and notify:
            notify(long)
        return bank.ids(texts, embedding).tolist()

    def opened(split: str) -> dict[str, TextDataset[Any]]:
        """The data of each part of the objective."""
        readers: list[CachedReader[str, Any]] = []
        return {
            name: open_source(
                OBJECTIVES[part.name].input_kind, store, dictionaries, config.data, settings.regions, config.seed,
                part.dictionary_negatives, readers, split, progress=progress, text_ids=text_ids, organ_names=names,
            )
            for name, part in parts_of(config.objective).items()
        }  # fmt: skip

    sources = opened("train")
    val = cast(Any, opened("val") if config.loop.compares and config.loop.score == "loss" else {})
    model = _model(settings, inputs, names, config.seed)
    release = _release(model, names, store, config, encoder)
    if config.initial is not None:
        _start_from(Path(config.initial), release)
    settings.encoder.train.apply(model.encoder)
    frozen = _with_cached_tokens(model, config.data, store)
    _fill_prompts(release, bank, {organ for source in sources.values() for organ in source.taught.organs}, embedding)
    objective = _objective(config, sources, release, bank, dictionaries, run).to(device)
    release.aligned = objective.aligned
    return Assembly(sources, objective, release, dictionaries, config.seed, validation_sources=val, encoder=frozen)


def _with_cached_tokens(model: DualEncoder, data: AnyDataSettings, store: Store) -> Encoder | None:
    """Let a model read cached tokens in place of images, where its data are such; returns its frozen encoder.

    Raises:
        StoreError: code ``no_tokens``: they were made by another encoder, or lack a level that is read.
        ModelError: code ``probe``: the encoder gives another answer than when they were made.
    """
    if not isinstance(data, TokenDataSettings):
        return None
    source, encoder = open_tokens(data, store).source, model.encoder
    if source.weights != encoder_hash(encoder):
        raise StoreError(
            f"The tokens in {data.folder} were made by another encoder ({source.encoder['name']}, weights "
            f"{source.weights}) than model.encoder ({encoder.settings.name}, weights {encoder_hash(encoder)}).",
            code="no_tokens",
            fix="Set model.encoder and its weights to those that ctglip embed --dense was given.",
        )
    check_probe(encoder, model.inputs.in_channels, source.probe, str(data.folder))
    count = len(encoder.level_channels)
    grids = {level.level: tuple(level.grid) for level in source.levels}
    missing = sorted({level % count for level in model.read_levels} - grids.keys())
    if missing:
        raise StoreError(
            f"The tokens in {data.folder} lack level {missing[0]} of the encoder, which model.regions reads.",
            code="no_tokens",
            fix=f"Set model.regions.levels to some of {sorted(grids)}, or make them again with this config.",
        )
    model.encoder = CachedEncoder(encoder, grids)
    return encoder


def _model(settings: DualEncoderSettings, inputs: ModelInputs, organ_names: Sequence[str], seed: int) -> DualEncoder:
    """The model with its first weights: drawn by the seed, or those that its parts name."""
    torch.manual_seed(seed)
    model = DualEncoder(settings, inputs)
    model.encoder.load_pretrained()
    if model.region_reader is not None:
        model.region_reader.load_pretrained(organ_names)
    return model


def _objective(
    config: PretrainConfig,
    sources: Mapping[str, TextDataset[Any]],
    release: Release,
    bank: TextBank,
    dictionaries: Dictionaries,
    run: Path,
) -> Objective:
    """The objective over the release's model, each of its parts built for its own source."""
    prompts = Scorer(release).organ_prompts()
    prompt_ids = bank.ids([text for texts in prompts for text in texts])
    owner = torch.tensor([number for number, texts in enumerate(prompts) for _ in texts])
    built: dict[str, Objective] = {}
    for name, part in parts_of(config.objective).items():
        source = sources[name]
        built[name] = OBJECTIVES[part.name].build(
            BuildContext(
                release.model, bank, dictionaries.organs, dictionaries.abnormalities, release.organs, prompt_ids,
                owner, source.keys, tuple(getattr(source, "regions", ())), run, source.texts,
            ),
            part,
        )  # fmt: skip
    return _joined(config, built)


def model_parts(
    config: PretrainConfig, text_dim: int, organs: OrganDictionary, names: Sequence[str]
) -> tuple[DualEncoderSettings, ModelInputs]:
    """The model's settings, completed by what the objective needs, and what follows from data and texts.

    Args:
        organs: the dictionary.
        names: the organs, in the order of their ids.
    """
    needs, settings, data = needs_of(config.objective), config.complete_model(), config.data
    regions = settings.regions
    sizes = regions is not None and REGION_READERS[regions.name].knows_size and all(need.sizes for need in needs)
    inputs = ModelInputs(
        in_channels=data.channels,
        text_dim=text_dim,
        sizes=data.knows_size and sizes,
        anatomy=regions is not None and any(need.anatomy for need in needs),
        organs=len(names),
        organ_labels=tuple(tuple(sorted(organs.roi_labels(name))) for name in names),
        tags=() if settings.tags is None else tuple(tag_entries(config.whole_images().tags)),
    )
    return settings, inputs


def _release(
    model: DualEncoder, organs: tuple[str, ...], store: Store, config: PretrainConfig, encoder: TextEncoder
) -> Release:
    data, scales = config.data, _scales(config)
    images: dict[str, Any] = {}
    if (whole := data.whole_scans() if isinstance(data, CropDataSettings) else data) is not None:
        kind = "scans" if whole.name == "tokens" else whole.name
        images = {kind: _input_settings(whole.input, scales[whole.name])}
    return Release(
        model=model,
        organs=organs,
        recipe=store.info.recipe,
        crops=_input_settings(data.crops, scales["crops"]),
        organ_dictionary=resource("organ_dictionary"),
        abnormality_dictionary=resource("abnormality_dictionary"),
        text_settings=config.text,
        text_hash=encoder.hash,
        text_encoder=encoder,
        **images,
    )


def _scales(config: PretrainConfig) -> dict[str, int]:
    """How many times coarser than its samples each kind of input is shown to the encoder, by all objectives that read
    it."""
    found = dict.fromkeys(DATA, 0)
    for part in parts_of(config.objective).values():
        kind, scale = config.reads(part), OBJECTIVES[part.name].needs(part).scale
        found[kind] = min(found[kind] or scale, scale)
    return {kind: scale or 1 for kind, scale in found.items()}


def _input_settings(settings: Settings, scale: int) -> dict[str, Any]:
    """How inputs are made for the released model, which sees what the encoder saw."""
    tree = settings.model_dump(mode="json")
    coarser = {key: [side // scale for side in tree[key]] for key in ("grid",) if key in tree}
    coarser |= {key: tree[key] // scale for key in ("size",) if key in tree}
    if tree.get("spacing_mm"):
        coarser["spacing_mm"] = [edge * scale for edge in tree["spacing_mm"]]
    return tree | coarser


def _joined(config: PretrainConfig, parts: Mapping[str, Objective]) -> Objective:
    if not isinstance(config.objective, MixtureSettings):
        return next(iter(parts.values()))
    return Mixture(parts, config.objective.weights)


def _start_from(folder: Path, release: Release) -> None:
    """Copy a trained model's weights.

    Raises:
        ModelError: code ``initial``: it sees other inputs, reads another text encoder, or has another shape.
    """
    before = load_release(folder)
    if any(getattr(before, part) != getattr(release, part) for part in ("crops", "scans", "cxr", "text_hash")):
        raise ModelError(
            f"{folder} was trained with other crops or scans or radiographs, or another text encoder.",
            code="initial",
            fix="Use its settings of data and text, or take its image encoder alone: model.encoder.weights.",
        )
    try:
        release.model.load_state_dict(before.model.state_dict())
    except RuntimeError as error:
        raise ModelError(
            f"{folder} holds a model of another shape: {str(error).splitlines()[0]}",
            code="initial",
            fix="Use its model settings, or take its image encoder alone: model.encoder.weights.",
        ) from error


def _fill_prompts(release: Release, bank: TextBank, trained: Set[str], progress: Progress | None) -> None:
    """Embed the dictionary's prompts for all organs, and for every question about a trained organ and its answer."""
    scorer = Scorer(release)
    pairs = [pair for pair in scorer.dictionaries.abnormalities.pairs() if pair[0] in trained]
    texts = [text for texts in scorer.organ_prompts() for text in texts]
    texts += [text for pair in pairs for side in scorer.prompts(pair) for text in side]
    normal = (normal_prompts(scorer.dictionaries.organs[organ], scorer.templates) for organ in sorted(trained))
    texts += [text for several in normal for text in several]
    texts = list(dict.fromkeys(texts))
    release.prompts = dict(zip(texts, bank.vectors(bank.ids(texts, progress, user_cache() / "texts")), strict=True))
