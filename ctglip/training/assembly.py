"""The parts of a run put together: data, text bank, model, objective, and the release that it will become."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ctglip.data.captions import OrganCaptions
from ctglip.data.crops import CropSettings
from ctglip.data.cxr import CxrDataSettings
from ctglip.data.scans import ScanSettings
from ctglip.errors import ConfigError, ModelError, StoreError
from ctglip.features.text_bank import TextBank
from ctglip.files import user_cache
from ctglip.inference.scoring import Dictionaries, Scorer
from ctglip.models.dual_encoder import Grounding, OrganTextModel, OrganTextModelSettings
from ctglip.models.observations import ObservationSettings
from ctglip.models.release import Release, load_release
from ctglip.models.tags import TagSettings
from ctglip.models.text import TextEncoder, load_text_encoder
from ctglip.objectives.asg import ASGSettings
from ctglip.objectives.base import Objective
from ctglip.objectives.ecamp import EcampSettings
from ctglip.objectives.mixture import Mixture
from ctglip.objectives.place import PlaceSettings
from ctglip.reports.tags import tag_entries
from ctglip.resources import resource
from ctglip.store.tables import Store
from ctglip.training.recipe import PretrainConfig
from ctglip.training.registry import SINGLE, Ground, MixtureSettings, negatives_of, parts_of
from ctglip.training.sources import Progress, Source, SourceSettings, open_source
from ctglip.types import Failure
from ctglip.vocabulary.abnormalities import load_abnormalities
from ctglip.vocabulary.organs import load_organs
from ctglip.vocabulary.prompts import normal_prompts


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
    """

    sources: dict[str, Source]
    objective: Objective
    release: Release
    dictionaries: Dictionaries
    seed: int = 0
    rank: int = 0
    world: int = 1

    def samples(self, step: int) -> Any:
        """The samples of a step (this rank's share): a list; of a mixture one for each part, by its name."""
        drawn = {name: source.batch(step, self.rank, self.world) for name, source in self.sources.items()}
        return drawn if isinstance(self.objective, Mixture) else next(iter(drawn.values()))

    def batch(self, step: int) -> Any:
        """The batch of a step (this rank's share): the same for the same seed, whatever came before."""
        self.objective.chance = (self.seed, step)
        return self.objective.collate(self.samples(step))

    def studies(self, step: int) -> list[str]:
        """The studies of a step's batch, of all ranks."""
        return list(dict.fromkeys(name for source in self.sources.values() for name in source.studies(step)))

    @property
    def captions(self) -> list[OrganCaptions]:
        """What is said of which organ in training."""
        return [said for source in self.sources.values() for said in source.captions]

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
    tell: Callable[[str], None] | None = None,
) -> Assembly:
    """Build everything; the same config and store give the same weights and batches.

    Args:
        store: the store to train on.
        run: the run's folder; embeddings of texts are kept in its ``text_bank/``.
        config: the run's config.
        device: where the objective lives.
        progress: called with (studies done, studies) while crops are cut.
        embedding: called with (texts done, texts) while texts are embedded.
        tell: called with a sentence about texts that are longer than the text encoder reads at a time.

    Raises:
        ConfigError: the model's settings do not suit the objective.
        StoreError: the store has not what the objective is fed with.
        ModelError: weights to start from that cannot be had or do not fit.
    """
    dictionaries = shipped_dictionaries(store)
    organs = dictionaries.organs
    names = tuple(name for name in organs.names if organs.roi_labels(name))
    encoder = load_text_encoder(config.text)
    settings = model_settings(config, encoder.dim, len(names), store.info.modality == "cxr")
    parts = parts_of(config.objective)
    drawn = SourceSettings(config.data, config.sampling, config.scans, config.cxr, settings, config.seed)
    sources = {
        name: open_source(SINGLE[part.name].feed, store, dictionaries, drawn, negatives_of(part), progress)
        for name, part in parts.items()
    }
    said = encoder.told_long({text for source in sources.values() for text in source.texts}, "texts")
    if said and tell:
        tell(said)
    bank = TextBank(run / "text_bank", encoder)
    torch.manual_seed(config.seed)
    model = OrganTextModel(settings)
    model.encoder.load_pretrained()
    release = _release(model, names, store, config, encoder)
    if config.initial is not None:
        _start_from(Path(config.initial), release)
    prompts = Scorer(release).organ_prompts()
    _fill_prompts(release, bank, [said for source in sources.values() for said in source.captions], embedding)
    prompt_ids = bank.ids([text for texts in prompts for text in texts])
    owner = torch.tensor([number for number, texts in enumerate(prompts) for _ in texts])
    built: dict[str, Objective] = {}
    for name, part in parts.items():
        regions, tags = (tuple(getattr(sources[name], kind, ())) for kind in ("regions", "tag_names"))
        keys, texts = sources[name].keys, sources[name].texts
        ground = Ground(model, bank, dictionaries, names, prompt_ids, owner, keys, regions, tags, run, texts)
        built[name] = SINGLE[part.name].build(ground, part)
        sources[name].bind(bank.ids(sources[name].texts, embedding).tolist(), names)
    objective = _joined(config, built).to(device)
    release.aligned = objective.aligned
    return Assembly(sources, objective, release, dictionaries, config.seed)


def model_settings(
    config: PretrainConfig, text_dim: int, organs: int, radiographs: bool = False
) -> OrganTextModelSettings:
    """The model's settings, completed by what inputs, text encoder and objective decide.

    Args:
        organs: number of organs that a model may have queries for.
        radiographs: the store holds radiographs.

    Raises:
        ConfigError: code ``objective``: organs are asked of a model that finds none (or not in radiographs), crops and
        whole
            scans that one encoder sees have other windows, or the encoder is not for this kind of image.
    """
    entries, model = [SINGLE[part.name] for part in parts_of(config.objective).values()], config.model
    feeds, grounding = {entry.feed for entry in entries}, _grounding(config, radiographs)
    crops, scans = config.data.crops, config.scans.input
    if grounding == "crop" and not feeds.isdisjoint(("pairs", "reports")) and crops.windows_hu != scans.windows_hu:
        raise ConfigError(
            f"One encoder sees crops with the windows {crops.windows_hu} and scans with {scans.windows_hu}.",
            code="objective",
            fix="Set scans.input.windows_hu to data.crops.windows_hu.",
        )
    dims, kind = (2, "cxr") if radiographs else (3, "scans")
    if model.encoder.spatial_dims != dims:
        raise ConfigError(
            f"The store holds {kind}, and the encoder sees images of {model.encoder.spatial_dims} dimensions.",
            code="objective",
            fix=f"Set model.encoder.spatial_dims to {dims}.",
        )
    seen = crops.channels if grounding == "crop" else scans.channels
    return model.model_copy(
        update={
            "grounding": grounding,
            "in_channels": 1 if radiographs else seen,
            "text_dim": text_dim,
            "organs": organs if grounding == "query" or model.pooling == "attention" else 0,
            "use_size": model.use_size and not radiographs,
            "anatomy": any(part.name == "organ_text" for part in parts_of(config.objective).values()),
            "whole_image": not feeds.isdisjoint(("pairs", "reports")),
            "tags": _tags(config, radiographs),
            "observations": _observations(config),
        }
    )


def _tags(config: PretrainConfig, radiographs: bool) -> TagSettings | None:
    """The decoder of tags, with the names of the list that reports are read for; None where no objective has one."""
    parts = parts_of(config.objective).values()
    if not any(isinstance(part, ASGSettings) and part.recognition > 0 for part in parts):
        return None
    names = tuple(tag_entries(config.cxr.tags if radiographs else config.scans.tags))
    return (config.model.tags or TagSettings()).model_copy(update={"names": names})


def _observations(config: PretrainConfig) -> ObservationSettings | None:
    """The queries that observe whole images; None where no objective has them."""
    parts = parts_of(config.objective).values()
    wanted = any(isinstance(part, PlaceSettings) and part.observes for part in parts)
    return (config.model.observations or ObservationSettings()) if wanted else None


def _grounding(config: PretrainConfig, radiographs: bool) -> Grounding:
    """How the model finds organs or regions: not at all where no objective asks for them.

    Raises:
        ConfigError: code ``objective``.
    """
    entries, wanted = [SINGLE[part.name] for part in parts_of(config.objective).values()], config.model.grounding
    whole: tuple[Grounding, ...] = ("box", "query") if radiographs else ("pool", "box", "query")
    if not any(entry.feed == "organs" for entry in entries):
        return wanted if wanted in whole and any(entry.regions for entry in entries) else "none"
    offered = whole if radiographs else ("crop", *whole)
    if wanted not in offered:
        raise ConfigError(
            f"The objective asks for organs{' in radiographs' if radiographs else ''}, and model.grounding is "
            f"{wanted}.",
            code="objective",
            fix=f"Set model.grounding to {', '.join(offered[:-1])} or {offered[-1]}.",
        )
    return wanted


def _release(
    model: OrganTextModel, organs: tuple[str, ...], store: Store, config: PretrainConfig, encoder: TextEncoder
) -> Release:
    radiographs = store.info.modality == "cxr"
    reads_scans = not radiographs and (model.settings.grounding != "crop" or model.settings.whole_image)
    scales = _scales(config, model.settings.grounding, radiographs)
    return Release(
        model=model,
        organs=organs,
        recipe=store.info.recipe,
        crops=_shown(config.data.crops, scales["crops"]),
        organ_dictionary=resource("organ_dictionary"),
        abnormality_dictionary=resource("abnormality_dictionary"),
        text_settings=config.text,
        text_hash=encoder.hash,
        text_encoder=encoder,
        scans=_shown(config.scans.input, scales["scans"]) if reads_scans else None,
        cxr=_shown(config.cxr, scales["cxr"]) if radiographs else None,
    )


def _scales(config: PretrainConfig, grounding: Grounding, radiographs: bool) -> dict[str, int]:
    """How many times coarser than its samples each kind of input is shown to the encoder, by all objectives that read
    it; an objective that sharpens what it sees (``ecamp``) wants finer samples."""
    found: dict[str, int] = {}
    for part in parts_of(config.objective).values():
        crops = SINGLE[part.name].feed == "organs" and grounding == "crop"
        kind = "cxr" if radiographs else "crops" if crops else "scans"
        scale = part.scale if isinstance(part, EcampSettings) else 1
        found[kind] = min(found.get(kind, scale), scale)
    return {kind: found.get(kind, 1) for kind in ("crops", "scans", "cxr")}


def _shown(settings: CropSettings | ScanSettings | CxrDataSettings, scale: int) -> dict[str, Any]:
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
            fix="Use its data.crops, scans.input, radiographs and text settings, or take its image encoder alone: "
            "model.encoder.weights.",
        )
    try:
        release.model.load_state_dict(before.model.state_dict())
    except RuntimeError as error:
        raise ModelError(
            f"{folder} holds a model of another shape: {str(error).splitlines()[0]}",
            code="initial",
            fix="Use its model settings, or take its image encoder alone: model.encoder.weights.",
        ) from error


def _fill_prompts(
    release: Release, bank: TextBank, captions: Sequence[OrganCaptions], progress: Progress | None
) -> None:
    """Embed the dictionary's prompts for all organs, and for every question about a trained organ and its answer."""
    scorer = Scorer(release)
    trained = {said.organ for said in captions}
    pairs = [pair for pair in scorer.dictionaries.abnormalities.pairs() if pair[0] in trained]
    texts = [text for texts in scorer.organ_prompts() for text in texts]
    texts += [text for pair in pairs for side in scorer.prompts(pair) for text in side]
    normal = (normal_prompts(scorer.dictionaries.organs[organ], scorer.templates) for organ in sorted(trained))
    texts += [text for several in normal for text in several]
    texts = list(dict.fromkeys(texts))
    release.prompts = dict(zip(texts, bank.vectors(bank.ids(texts, progress, user_cache() / "texts")), strict=True))
