"""One radiograph in, answers out: read and standardised by the model's own recipe, which preprocessing used too."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ctglip.cxr.io import read_radiograph
from ctglip.cxr.masks import read_cxr_masks
from ctglip.cxr.picture import Radiograph
from ctglip.cxr.recipe import CxrRecipe
from ctglip.cxr.regions import read_regions, region_entries, regions_of_masks
from ctglip.cxr.standardize import standardize_radiograph
from ctglip.data.cxr import CxrInput, cxr_input
from ctglip.errors import MaskError, ModelError, ScanError
from ctglip.files import private_name
from ctglip.inference.answerer import Answerer, Asked, Seen
from ctglip.inference.answers import ScanAnswers
from ctglip.inference.cxr_encoding import (
    Boxes,
    Read,
    Reading,
    boxes_of,
    cxr_settings,
    encode_radiographs,
    on_window,
    organ_box,
    queries_of,
    reading_of,
    visible_on_radiographs,
    whole_image_feature,
)
from ctglip.inference.cxr_maps import cxr_maps
from ctglip.inference.familiarity import Verdict
from ctglip.inference.model_input import channel_names
from ctglip.inference.observations import observation_maps
from ctglip.inference.query_settings import changed_recipe, query_settings, with_setting
from ctglip.inference.scoring import Pair
from ctglip.models.release import Release
from ctglip.types import OrganRow, Region, Standardized

_VOLUMES = (".nii", ".nii.gz", ".nrrd")


@dataclass(frozen=True)
class CxrAnswers(ScanAnswers):
    """All answers about one radiograph; ``scan`` is the radiograph's file, ``grid`` its rows and columns with pixels to
    mm.

    Attributes:
        regions: the boxes that are known, on the standardised radiograph.
        radiograph: what the model read.
        places: of each organ that was looked at, how and where.
        original: the radiograph as it was read.
    """

    regions: tuple[Region, ...] = ()
    radiograph: CxrInput | None = None
    instances: tuple[tuple[OrganRow, Reading], ...] = ()
    original: Radiograph | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data: answers, boxes, quality checks."""
        return {
            "radiograph": self.scan,
            "masks": self.masks,
            "notes": list(self.notes),
            "answers": [asdict(answer) for answer in self.answers],
            "regions": [asdict(region) for region in self.regions],
            "checks": [asdict(check) for check in self.standardized.checks],
        }


@dataclass(frozen=True)
class CxrMap:
    """Where an answer about a radiograph comes from.

    Attributes:
        organ, abnormality: of the question.
        values: on the model's window, see ``cxr_maps.cxr_maps``.
        to_standard, to_file: 4x4, (row, column, 0) of the window to pixels of the standardised radiograph, and of the
        file
            (``cxr_maps.laid_on`` takes them).
    """

    organ: str
    abnormality: str
    values: Float[np.ndarray, "h w"]
    to_standard: Float[np.ndarray, "4 4"]
    to_file: Float[np.ndarray, "4 4"]


@dataclass(frozen=True)
class _Instance:
    """How an organ is read from a radiograph, and in whose words."""

    row: OrganRow
    reading: Reading
    words: str


class CxrPipeline(Answerer):
    """A trained model that answers questions about chest radiographs.

    Args:
        release: as ``models.release.load_release`` gives it.
        read: organs as the model finds them, the ``whole`` radiograph, or its ``observations`` (of PLACE,
        re-implemented from
            the abstract): the best one answers, and maps show where its query looks.

    Raises:
        ModelError: code ``not_aligned``: a model that was trained without texts; ``other_modality``: one of scans;
            ``no_whole_image``, ``no_observations``: it cannot be read so.
    """

    def __init__(self, release: Release, read: Read = "organs") -> None:
        reading = reading_of(release.model, read)
        super().__init__(release, reading == "observations", reading)
        self.recipe = CxrRecipe.model_validate(release.recipe)
        self.settings = cxr_settings(release)
        self.reading = reading
        self.queries = queries_of(release.organs, self.dictionaries.organs)

    @property
    def known(self) -> Collection[str]:
        """The organs of training, or where it named none those that a chest radiograph shows."""
        return self.trained or visible_on_radiographs(self.dictionaries.organs)

    def query(
        self,
        radiograph: Path | str | Radiograph,
        questions: Sequence[str],
        masks: Path | str | None = None,
        everything: bool = False,
        regions: Path | str | Sequence[Region] | None = None,
        prompts: Sequence[str] = (),
        settings: Sequence[str] = (),
    ) -> CxrAnswers:
        """Answer questions about one radiograph.

        Args:
            radiograph: PNG, JPEG or DICOM file, or a radiograph in memory.
            questions: in words, see ``inference.questions``.
            masks: picture of organ numbers or of two lungs; organs are found by the boxes around them.
            everything: ask, after the questions, for every abnormality of the dictionary of every organ of training.
            regions: boxes in the radiograph's pixels: a file as ``radiograph.regions.read_regions`` reads it, or the
            boxes.
            prompts, settings: as ``Pipeline.query`` takes them (``"cxr.label_map={1: lung_left}"``).

        Raises:
            ConfigError: a setting that there is not, or that the model was trained with.
            VocabularyError: no question is understood (before the radiograph is read).
            ScanError, MaskError: the radiograph, its masks or its boxes cannot be used; ``other_modality``: a CT scan.
            ModelError: nothing was asked.
        """
        asked = self.understood(questions, everything, prompts)
        recipe = changed_recipe(self.recipe, query_settings(settings, "cxr").cxr, "cxr")
        try:
            standardized, placed, read = self.standardize(radiograph, masks, regions, recipe)
        except (ScanError, MaskError) as error:
            raise with_setting(error, recipe, "cxr") from error
        seen, instances, shown = self._seen(asked, standardized, placed)
        told = [
            replace(a, read_from=instances[a.organ].words) if a.organ in instances else a
            for a in self._told(asked, seen)
        ]
        displays = self._displays(told, standardized)
        return CxrAnswers(
            scan="radiograph in memory" if isinstance(radiograph, Radiograph) else private_name(Path(radiograph)),
            masks=_origin(masks, regions),
            answers=tuple(told),
            standardized=standardized,
            displays=displays,
            grid=(read.pixels.shape, _source_affine(read)),
            source=None if isinstance(radiograph, Radiograph) else Path(radiograph),
            regions=placed,
            radiograph=shown,
            instances=tuple((instance.row, instance.reading) for instance in instances.values()),
            original=read,
            notes=self._notes(seen),
        )

    def encode_image(
        self,
        images: Path | str | Radiograph | Tensor,
        regions: Sequence[str] | Mapping[str, Any] | None = None,
        masks: Path | str | None = None,
        boxes: Path | str | Sequence[Region] | None = None,
    ) -> Float[Tensor, "m *q e"]:
        """Unit vectors of organs, or of whole radiographs, as answers compare them with ``encode_text``; on the CPU.

        Args:
            images: a radiograph as ``query`` takes it; or channels that are made already, ``[b, 1, h, w]``.
            regions: of a radiograph the names of its organs, one row each (several of each where ``observations`` are
            read);
                of channels what ``Release.encode_image`` wants. Without any: whole radiographs.
            masks, boxes: of the radiograph, as ``masks`` and ``regions`` of ``query``.

        Raises:
            ModelError: code ``no_organ``: an organ cannot be read in this radiograph; and as ``Release.encode_image``
            does.
            ScanError, MaskError: the radiograph, its masks or its boxes cannot be used.
        """
        if isinstance(images, Tensor):
            return self._encode_channels(images, regions)
        if regions is None:
            return self._encode_channels(self.model_input(images)["image"], None)
        standardized, placed, _ = self.standardize(images, masks, boxes)
        names = [self.dictionaries.organs[name].name for name in regions]
        seen, _, _ = self._seen([Asked("", name) for name in names], standardized, placed)
        for name in names:
            if name in seen.reasons:
                raise ModelError(seen.reasons[name], code="no_organ", fix="Leave it out, or give its box.")
        return torch.from_numpy(np.stack([seen.vectors[name] for name in names]))

    def model_input(self, radiograph: Path | str | Radiograph) -> dict[str, Any]:
        """What the model reads of a radiograph: ``image``, float32 ``[1, 1, h, w]``, the channel that its encoder takes
        (as ONNX too); ``channel_names`` says what it shows."""
        image = cxr_input(self.standardize(radiograph)[0].image, self.settings).image
        return {"image": torch.from_numpy(image)[None]}

    @property
    def channel_names(self) -> tuple[str, ...]:
        """What the channel of ``model_input`` shows."""
        return channel_names(self.release)

    def standardize(
        self,
        radiograph: Path | str | Radiograph,
        masks: Path | str | None = None,
        regions: Path | str | Sequence[Region] | None = None,
        recipe: CxrRecipe | None = None,
    ) -> tuple[Standardized, tuple[Region, ...], Radiograph]:
        """The radiograph as preprocessing would store it with the model's recipe, its boxes, and as it was read."""
        recipe = recipe or self.recipe
        read, checks = (
            (radiograph, ())
            if isinstance(radiograph, Radiograph)
            else read_radiograph(_cxr_file(Path(radiograph)), recipe)
        )
        labels, given = None, {}
        if masks is not None:
            rows, columns = read.pixels.shape
            organs = self.dictionaries.organs
            labels, noticed = read_cxr_masks(Path(masks), (rows, columns), recipe, organs)
            checks = (*checks, *noticed)
            given = {region.name: region for region in regions_of_masks(labels, organs.label_names())}
        if regions is not None:
            boxes = read_regions(Path(regions)) if isinstance(regions, str | Path) else regions
            given |= {region.name: region for region in boxes}
        found = standardize_radiograph(read, recipe, labels, tuple(given.values()))
        return replace(found, checks=(*checks, *found.checks)), found.regions, read

    def heat_maps(self, answers: CxrAnswers, pairs: Collection[Pair] | None = None) -> Iterator[CxrMap]:
        """Where each answer comes from: one map for each pair.

        Args:
            answers: as ``query`` gave them; answers without a probability have no map.
            pairs: (organ, abnormality) of the answers wanted; all by default.
        """
        assert answers.radiograph is not None
        assert answers.grid is not None
        to_standard = answers.radiograph.affine()
        to_file = np.linalg.inv(answers.grid[1]) @ answers.standardized.affine @ to_standard
        instances: dict[str, tuple[OrganRow, Reading]] = {instance[0].organ: instance for instance in answers.instances}
        answered = [(a.organ, a.abnormality) for a in answers.answers if a.probability is not None]
        for organ in dict.fromkeys(organ for organ, _ in answered):
            names = dict.fromkeys(n for o, n in answered if o == organ and (pairs is None or (o, n) in pairs))
            if names:
                asked, model = [(organ, name) for name in names], self.release.model
                row, reading = instances[organ]
                if reading == "observations":
                    found = observation_maps(model, answers.radiograph, self.scorer.sides(asked)[0])
                else:
                    axes = self.scorer.axes(asked)
                    found = cxr_maps(model, answers.radiograph, row, self.queries.get(organ, 0), reading, axes)
                for name, values in zip(names, found, strict=True):
                    yield CxrMap(organ, name, values, to_standard, to_file)

    def _seen(
        self, asked: Sequence[Asked], standardized: Standardized, regions: Sequence[Region]
    ) -> tuple[Seen, dict[str, _Instance], CxrInput]:
        radiograph = cxr_input(standardized.image, self.settings)
        boxes = boxes_of(regions)
        instances: dict[str, _Instance] = {}
        reasons: dict[str, str] = {}
        for organ in dict.fromkeys(one.organ for one in asked if one.organ):
            found = self._instance(organ, boxes, radiograph)
            if isinstance(found, _Instance):
                instances[organ] = found
            else:
                reasons[organ] = found
        vectors: dict[str, np.ndarray] = {}
        verdicts: dict[str, Verdict | None] = {}
        readings: list[Reading] = [instance.reading for instance in instances.values()]
        for reading in sorted(set(readings)):
            rows = [instance.row for instance in instances.values() if instance.reading == reading]
            read = encode_radiographs(self.release.model, [radiograph], [rows], self.queries, reading)
            known = self.familiarity if reading == self.reading else None
            for row, vector, features in zip(rows, read.diagnosis, read.features, strict=True):
                vectors[row.organ] = vector
                display = self.dictionaries.organs[row.organ].display
                verdicts[row.organ] = None if known is None else known.judge(row, features, display)
        return Seen(vectors, reasons, verdicts), instances, radiograph

    def _instance(self, organ: str, boxes: Boxes, radiograph: CxrInput) -> _Instance | str:
        """How an organ is read: from its box, by its query, from the whole radiograph; or why it is not."""
        entry, release = self.dictionaries.organs[organ], self.release
        verb = "are" if entry.plural else "is"
        whole = release.model.image_head is not None
        if organ not in self.trained and organ not in visible_on_radiographs(self.dictionaries.organs):
            return f"The {entry.display} {verb} not shown on a chest radiograph."
        everywhere = _Instance(whole_image_feature(organ, radiograph.shape), "whole", "the whole radiograph")
        if self.reading == "whole":
            return everywhere
        if self.reading == "observations":
            return _Instance(everywhere.row, "observations", "the radiograph's observations")
        if self.reading == "query":
            if organ in self.queries:
                return _Instance(whole_image_feature(organ, radiograph.shape), "query", "a learned query")
            return everywhere if whole else f"The model has learned no query for the {entry.display}."
        found = organ_box(organ, boxes, self.dictionaries.organs)
        if found is not None and on_window(radiograph, [found[0]], "box")[0]:
            shown = " and the ".join(region_entries()[name].display for name in found[1])
            several = "boxes" if len(found[1]) > 1 else "box"
            return _Instance(found[0], "box", f"the {several} of the {shown}")
        if whole:
            return everywhere
        what = (
            "There is no box of" if found is None else "The middle of the radiograph, which the model sees, leaves out"
        )
        return f"{what} the {entry.display}."


def _cxr_file(path: Path) -> Path:
    if path.is_dir() or path.name.lower().endswith(_VOLUMES):
        raise ScanError(
            "This model was trained on radiographs, and is asked about a CT scan.",
            code="other_modality",
            fix="Give a PNG, JPEG or DICOM radiograph, or ask a model that was trained on scans.",
        )
    return path


def _source_affine(radiograph: Radiograph) -> np.ndarray:
    affine = np.eye(4)
    affine[0, 0], affine[1, 1] = radiograph.spacing_mm or (1.0, 1.0)
    return affine


def _origin(masks: Path | str | None, regions: object) -> str:
    """Where organs are known from, in words."""
    said = [] if masks is None else [private_name(Path(masks))]
    if isinstance(regions, str | Path):
        said.append(private_name(Path(regions)))
    elif regions is not None:
        said.append("boxes in memory")
    return ", ".join(said) or "none"
