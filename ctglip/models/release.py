"""The ``model/`` folder: all that a trained model needs to answer on another machine. JSON and safetensors only."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ctglip.config import validate
from ctglip.errors import CTGLIPError, ModelError
from ctglip.files import atomic_path, read_json, write_json
from ctglip.models.dual_encoder import DualEncoder, DualEncoderSettings
from ctglip.models.encoders.probe import check_probe, encoder_probe
from ctglip.models.encoders.tuning import FullEncoder
from ctglip.models.legacy import current_cxr, current_model, organ_label_numbers, without_former_inputs
from ctglip.models.region_readers import ModelInputs, Regions
from ctglip.models.text import (
    TextEncoder,
    TextEncoderSettings,
    load_text_encoder,
    read_text_encoder,
    stored_hash,
)
from ctglip.models.weights.matching import load_unique_state, unique_state
from ctglip.places import lies_within
from ctglip.types import ModalityName

FORMAT_VERSION = 3
_READ_VERSIONS = (2, FORMAT_VERSION)
_DICTIONARIES = ("organ_dictionary", "abnormality_dictionary")
_DAMAGE = (
    OSError, RuntimeError, SafetensorError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError,
    MemoryError,
)  # fmt: skip


@dataclass(frozen=True)
class Statistics:
    """Plain data with arrays beside it, as they are stored: JSON and safetensors."""

    about: dict[str, Any]
    arrays: dict[str, Tensor]


ReaderKind = Literal["crops", "scans", "cxr"]
_MODALITY_OF: dict[ReaderKind, ModalityName] = {"crops": "ct", "scans": "ct", "cxr": "cxr"}


@dataclass
class Release:
    """A trained model with everything around it.

    Attributes:
        model: the weights; in evaluation mode after loading.
        organs: the organs of the anatomy prompts, in the order of ``organ_id``.
        recipe: the volume recipe as plain data.
        crops: the crop settings as plain data.
        scans: the scan settings as plain data; None for a model that reads crops alone (one that reads organs from
            crops and looks at whole scans besides has both; see ``reads_crops``).
        cxr: how radiographs become inputs (``CxrInputSettings``) as plain data; None for a model of scans. ``recipe``
            is then the radiograph recipe.
        organ_dictionary, abnormality_dictionary: folders with the YAML files (copied on saving).
        text_settings: which text encoder.
        text_hash: its hash: embeddings made by another encoder are refused.
        prompts: text -> raw text embedding ``[T]``, for all prompts of the dictionaries.
        calibration: thresholds and temperatures as plain data.
        familiarity: what organs looked like in training (``inference.familiarity``); None where it was not measured.
        provenance: versions, seeds, what it was trained on, as plain data.
        aligned: images and texts were brought into one space; a model that was not (masked modelling alone) has an
            image encoder to embed, probe and fine-tune with, and cannot be asked in words.
        text_encoder: the encoder itself where it is at hand; ``embed`` loads it when it is first needed.
        folder: where it was loaded from.
    """

    model: DualEncoder
    organs: tuple[str, ...]
    recipe: dict[str, Any]
    crops: dict[str, Any]
    organ_dictionary: Path
    abnormality_dictionary: Path
    text_settings: TextEncoderSettings
    text_hash: str
    prompts: dict[str, Tensor] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    text_encoder: TextEncoder | None = None
    folder: Path | None = None
    scans: dict[str, Any] | None = None
    cxr: dict[str, Any] | None = None
    aligned: bool = True
    familiarity: Statistics | None = None

    @property
    def reader_kind(self) -> ReaderKind:
        """What it reads organs from."""
        if self.cxr is not None:
            return "cxr"
        return "crops" if self.model.reads_crops else "scans"

    @property
    def modality(self) -> ModalityName:
        """The kind of images that it was trained on."""
        return _MODALITY_OF[self.reader_kind]

    @property
    def sides(self) -> tuple[int, ...]:
        """Voxels or pixels along each axis of what its encoder sees."""
        settings = {"crops": self.crops, "scans": self.scans, "cxr": self.cxr}[self.reader_kind]
        assert settings is not None
        return tuple(int(side) for side in settings.get("grid") or [settings["size"]] * 2)

    @property
    def reads_crops(self) -> bool:
        """Organs are read from crops, not in whole scans."""
        return self.model.reads_crops

    def embed(self, texts: Sequence[str]) -> Float[Tensor, "n t"]:
        """Raw text embeddings: stored prompts as they are, the rest through the text encoder.

        Raises:
            ModelError: code ``text_encoder`` when the encoder is needed and cannot be had, or is another one.
        """
        missing = [text for text in dict.fromkeys(texts) if text not in self.prompts]
        found = dict(zip(missing, self.encoder().encode(missing), strict=True)) if missing else {}
        rows = [self.prompts[text] if text in self.prompts else found[text] for text in texts]
        return torch.stack(rows) if rows else torch.zeros(0, self.model.inputs.text_dim)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "n e"]:
        """Unit vectors of texts, in the space of ``encode_image``.

        Raises:
            ModelError: code ``not_aligned``; ``text_encoder``, see ``embed``.
        """
        self.check_aligned()
        return self.model.text(self.embed(texts).to(self._device)).float()

    @torch.no_grad()
    def encode_image(
        self, images: Float[Tensor, "b c *s"], regions: Mapping[str, Any] | None = None
    ) -> Float[Tensor, "m e"]:
        """Unit vectors of images' organs, or of whole images, in the space of ``encode_text``.

        ``encode_image(batch["image"], batch)`` takes a batch of a dataset of ``ctglip.data``; ``model_input`` of a
        loaded model makes the same from a scan.

        Args:
            images: the channels that the model reads, on its grid.
            regions: the organs, m rows; other entries count nothing. A model that reads crops wants ``mask [m, 1, *s]``
                (m = b) and ``size [m, 4]``; one that finds organs in whole images ``size``, ``study_index [m]`` (whose
                image) and, by its region reader, ``labels [b, *s]`` and ``organ`` (names), ``boxes [m, 2 d]``, or
                ``organ``. Without ``size``: one vector for each whole image.

        Raises:
            ModelError: code ``not_aligned``; ``regions``: an entry is missing, or it has no head for whole images.
        """
        self.check_aligned()
        model, was_training = self.model.eval(), self.model.training
        try:
            return self._encoded(images.to(self._device), regions or {}).float()
        finally:
            model.train(was_training)

    def _encoded(self, images: Tensor, regions: Mapping[str, Any]) -> Tensor:
        model, needed = self.model, self.model.region_inputs
        if model.region_reader is None or regions.get("size") is None:
            if model.image_head is None:
                raise ModelError("This model reads organs, not whole images.", code="regions", fix="Give regions.")
            return model.image_head(model.image_features(images))
        columns = ["organ" if name == "organ_id" else name for name in dict.fromkeys(("size", *needed))]
        missing = [name for name in columns if regions.get(name) is None]
        if missing:
            raise ModelError(f"regions lack {', '.join(missing)}.", code="regions", fix=f"Give {', '.join(columns)}.")
        given = {name: torch.as_tensor(regions[name]).to(self._device) for name in columns if name != "organ"}
        if "organ" in columns:
            given["organ_id"] = torch.tensor([self._organ_id(name) for name in regions["organ"]], device=self._device)
        return model.diagnosis(model(images, Regions(**given)))

    def _organ_id(self, organ: str) -> int:
        if organ not in self.organs:
            raise ModelError(f"The model was not trained on the organ {organ!r}.", code="regions")
        return self.organs.index(organ)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def check_aligned(self) -> None:
        """The model compares images with words.

        Raises:
            ModelError: code ``not_aligned``: it was trained without texts, or without bringing them together with
                images.
        """
        if not self.aligned:
            raise ModelError(
                "This model was not trained to compare images with words, so it cannot be asked in words.",
                code="not_aligned",
                fix="Teach it labels with `ctglip finetune`, or take its features with `ctglip embed`.",
            )

    def refresh(self) -> None:
        """Take over what a text encoder that is trained along has become: its hash, and the prompts' embeddings."""
        if self.text_encoder is not None and self.text_encoder.trainable:
            texts = list(self.prompts)
            self.text_hash = self.text_encoder.hash
            self.prompts = dict(zip(texts, self.text_encoder.encode(texts), strict=True))

    def encoder(self) -> TextEncoder:
        """The text encoder: from the folder, or by its name where the folder only refers to it.

        Raises:
            ModelError: code ``text_encoder``, see ``embed``.
        """
        if self.text_encoder is None:
            stored = self.folder / "text_encoder" if self.folder else None
            if stored and (stored / "config.json").is_file():
                self.text_encoder = read_text_encoder(stored)
            else:
                self.text_encoder = load_text_encoder(self.text_settings)
        if self.text_encoder.hash != self.text_hash:
            raise ModelError(
                f"The text encoder {self.text_settings.name!r} has hash {self.text_encoder.hash}, but this model "
                f"was trained with {self.text_hash}.",
                code="text_encoder",
                fix="Use the model folder of the training run, with its own text_encoder/.",
            )
        return self.text_encoder


def save_release(folder: Path, release: Release, reference_text_encoder: bool = False) -> Path:
    """Write a ``model/`` folder, by rename.

    It holds config.json, model.safetensors, text_encoder/, organ_dictionary/, abnormality_dictionary/,
    prompts.safetensors, prompts.json and calibration.json; familiarity.json and familiarity.safetensors where that was
    measured.

    Args:
        folder: the folder to write; replaced when it is there.
        release: what to write.
        reference_text_encoder: store the text encoder's name and hash in place of its weights.

    Raises:
        ModelError: code ``text_encoder``: a reference to an encoder that was trained along.
    """
    release.refresh()
    if reference_text_encoder and release.text_settings.train.name != "frozen":
        raise ModelError(
            "A text encoder that was trained along is nowhere else: its weights must be stored.", code="text_encoder"
        )
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        weights = {name: value.detach().cpu().contiguous() for name, value in unique_state(release.model).items()}
        save_file(weights, temporary / "model.safetensors")
        write_json(temporary / "config.json", _config(release))
        for name in _DICTIONARIES:
            (temporary / name).mkdir()
            for file in sorted(getattr(release, name).glob("*.yaml")):
                _check_own(getattr(release, name), file)
                shutil.copyfile(file, temporary / name / file.name)
        texts = sorted(release.prompts)
        rows = [release.prompts[text].cpu() for text in texts]
        table = torch.stack(rows) if rows else torch.zeros(0, release.model.inputs.text_dim)
        save_file({"embeddings": table.contiguous()}, temporary / "prompts.safetensors")
        write_json(temporary / "prompts.json", texts)
        write_json(temporary / "calibration.json", release.calibration)
        if release.familiarity is not None:
            write_json(temporary / "familiarity.json", release.familiarity.about)
            save_file(release.familiarity.arrays, temporary / "familiarity.safetensors")
        _save_text_encoder(temporary / "text_encoder", release, reference_text_encoder)
    return folder


def _save_text_encoder(folder: Path, release: Release, reference: bool) -> None:
    """The text encoder's weights, copied where nobody has loaded them yet (loading takes seconds); or a reference."""
    if reference:
        folder.mkdir()
        write_json(
            folder / "reference.json", release.text_settings.model_dump(mode="json") | {"hash": release.text_hash}
        )
        return
    stored = None if release.folder is None else release.folder / "text_encoder"
    if release.text_encoder is None and stored is not None and stored_hash(stored) == release.text_hash:
        for file in stored.rglob("*"):
            _check_own(stored.parent, file)
        shutil.copytree(stored, folder)
        return
    release.encoder().save(folder)


def _check_own(folder: Path, file: Path) -> None:
    """Refuse to copy what a link in a model folder points at elsewhere: it is no part of the model."""
    if not lies_within(folder, file):
        raise ModelError(
            f"{file} is a link to a file outside of {folder}, which is not copied.",
            code="link_in_model",
            fix="Put the file itself there.",
        )


def load_release(folder: Path) -> Release:
    """Read a ``model/`` folder, or the run folder around it. Needs no network.

    Raises:
        ModelError: missing, incomplete, or of another format version.
    """
    folder = folder / "model" if (folder / "model" / "config.json").is_file() else folder
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} is not a model folder: it has no config.json.", fix="Name a run folder or its model/ folder."
        )
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise ModelError(f"{folder / 'config.json'} is not the config of a model.", fix="Copy the model folder again.")
    if config.get("format_version") not in _READ_VERSIONS:
        raise ModelError(
            f"{folder} has format version {config.get('format_version')!r}, this ctglip reads {FORMAT_VERSION}.",
            fix="Install the ctglip version that wrote it.",
        )
    try:
        return _read_release(folder, config)
    except _DAMAGE as error:
        if isinstance(error, CTGLIPError):
            raise
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        what = f"{first} is missing" if isinstance(error, KeyError) else first
        raise ModelError(f"{folder} is damaged: {what}.", fix="Copy the model folder again.") from error


def _read_release(folder: Path, config: dict[str, Any]) -> Release:
    config = without_former_inputs(config)
    state, organs = load_file(folder / "model.safetensors"), tuple(config["organs"])
    tree, inputs = config["model"], config.get("inputs", {})
    if config["format_version"] != FORMAT_VERSION:
        tree, inputs, state = current_model(tree, state, len(organs), organ_label_numbers(folder, tree, organs))
    where = str(folder / "config.json")
    familiarity = _read_statistics(folder, "familiarity")
    if familiarity is not None and familiarity.about.get("reading") == "pool":
        familiarity.about["reading"] = "mask"  # its name in format version 2
    model = DualEncoder(validate(DualEncoderSettings, tree, where), validate(ModelInputs, inputs, where))
    load_unique_state(model, state)
    if config.get("probe"):
        check_probe(model.encoder, model.inputs.in_channels, config["probe"], str(folder))
    table = load_file(folder / "prompts.safetensors")["embeddings"]
    return Release(
        model=model.eval(),
        organs=organs,
        recipe=config["recipe"],
        crops=config["crops"],
        organ_dictionary=folder / "organ_dictionary",
        abnormality_dictionary=folder / "abnormality_dictionary",
        text_settings=TextEncoderSettings.saved(config["text"]),
        text_hash=config["text_hash"],
        prompts=dict(zip(read_json(folder / "prompts.json"), table, strict=True)),
        calibration=read_json(folder / "calibration.json"),
        provenance=config["provenance"],
        folder=folder,
        scans=config.get("scans"),
        cxr=current_cxr(config.get("cxr", config.get("radiographs"))),
        aligned=config.get("aligned", True),
        familiarity=familiarity,
    )


def _read_statistics(folder: Path, name: str) -> Statistics | None:
    """None where a model comes without them."""
    if not (folder / f"{name}.json").is_file():
        return None
    return Statistics(read_json(folder / f"{name}.json"), load_file(folder / f"{name}.safetensors"))


def _config(release: Release) -> dict[str, Any]:
    plain = {"weights": None, "partial": False, "train": FullEncoder()}
    encoder = release.model.settings.encoder.model_copy(update=plain)
    return {
        "format_version": FORMAT_VERSION,
        "model": release.model.settings.model_copy(update={"encoder": encoder}).model_dump(mode="json"),
        "inputs": release.model.inputs.model_dump(mode="json"),
        "probe": encoder_probe(release.model.encoder, release.model.inputs.in_channels),
        "organs": list(release.organs),
        "recipe": release.recipe,
        "crops": release.crops,
        "scans": release.scans,
        "cxr": release.cxr,
        "aligned": release.aligned,
        "text": release.text_settings.frozen().model_dump(mode="json"),
        "text_hash": release.text_hash,
        "provenance": release.provenance,
    }
