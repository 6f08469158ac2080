"""One image in, answers out: read and standardised by the model's own recipe, each organ encoded once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ctglip.config import validate
from ctglip.ct.quality import refuse_errors
from ctglip.ct.segmentation import SegmentationSettings, segment
from ctglip.cxr.picture import Radiograph
from ctglip.data.reader import InMemory
from ctglip.errors import ConfigError, MaskError, ModelError, ScanError
from ctglip.files import private_name
from ctglip.inference.answerer import Answerer, AnswerRequest, OrganVectors
from ctglip.inference.answers import Answers
from ctglip.inference.encoded_study import EncodedStudy
from ctglip.inference.familiarity import Verdict
from ctglip.inference.heatmap import HeatMap
from ctglip.inference.model_readers import reader_of
from ctglip.inference.query_settings import changed_recipe, query_settings, with_setting
from ctglip.inference.readers import OrganReading, Read
from ctglip.inference.scoring import Pair
from ctglip.modality import Checks, GivenOrgans, OrganLocations, looks_like
from ctglip.models.release import Release
from ctglip.types import LabelMap, OrganRow, Region, Scan, Standardized

ImageLike = Path | str | Scan | Radiograph
Masks = Path | str | LabelMap
GivenBoxes = Path | str | Sequence[Region]
CUT_OFF_HINT = " Set cut_off=answer for an answer marked as such."


class Pipeline(Answerer):
    """A trained model that answers questions about CT scans, or about chest radiographs.

    Args:
        release: as ``models.release.load_release`` gives it.
        read: how radiographs are read: organs as the model finds them, the ``whole`` radiograph, or its
            ``observations`` (of PLACE, re-implemented from the abstract): the best one answers, and maps show where its
            query looks.

    Attributes:
        reader: how the model reads organs.
        modality: what kind of images it was trained on.
        recipe: how its images are read and standardised.

    Raises:
        ModelError: code ``not_aligned``: a model that was trained without texts; and as ``reader_of``.
    """

    def __init__(self, release: Release, read: Read = "organs") -> None:
        self.reader = reader_of(release, read)
        super().__init__(release, self.reader.reading)
        self.modality = self.reader.modality
        self.recipe = validate(self.modality.recipe, release.recipe, "the model's recipe")

    @property
    def known(self) -> Collection[str]:
        """The organs of the model's training, else those of its reader."""
        return self.trained or self.reader.known

    def query(
        self,
        image: ImageLike,
        questions: Sequence[str],
        masks: Masks | None = None,
        everything: bool = False,
        regions: GivenBoxes | None = None,
        prompts: Sequence[str] = (),
        settings: Sequence[str] = (),
    ) -> Answers:
        """Answer questions about one image.

        A question that is not understood has an answer that says so (``Answer.understood``), as long as there is
        another one.

        Args:
            image: NIfTI or NRRD file, or folder of DICOM slices; PNG, JPEG or DICOM radiograph; or one in memory.
            questions: in words, see ``inference.questions``.
            masks: organ masks; for a scan without any TotalSegmentator is run. Of a radiograph: a picture of organ
                numbers or of two lungs; organs are found by the boxes around them.
            everything: ask, after the questions, for every abnormality of the dictionary of every organ that the model
                was trained on (``Answer.taught`` says whether it has seen that abnormality there).
            regions: boxes in a radiograph's pixels: a file as ``cxr.regions.read_regions`` reads it, or the boxes.
            prompts: sentences of one's own, ``"liver: The liver shows a large mass."``: each organ's similarity with
                them, and its rank among the dictionary's sentences; no probability.
            settings: changes for this query, ``"ct.series=3"`` (``inference.query_settings``).

        Raises:
            ConfigError: a setting that there is not, or that the model was trained with; boxes for a scan.
            VocabularyError: no question is understood (before the image is read).
            ScanError, MaskError: the image, its masks or its boxes cannot be used.
            ModelError: nothing was asked.
        """
        requests = self.understood(questions, everything, prompts)
        organs = list(dict.fromkeys(one.organ for one in requests if one.organ))
        return self._answered(requests, self.encode_study(image, organs, masks, regions, settings))

    def encode_study(
        self,
        image: ImageLike,
        organs: Sequence[str] | None = None,
        masks: Masks | None = None,
        regions: GivenBoxes | None = None,
        settings: Sequence[str] = (),
        begin: Callable[[str], object] = str,
    ) -> EncodedStudy:
        """Read one image and encode its organs, so that ``answer`` can be called as often as one likes.

        Args:
            image, masks, regions, settings: as for ``query``.
            organs: names of the organs to encode; by default all that the model knows.
            begin: called with the name of each step as it begins: ``read``, ``segment`` (or masks are read),
                ``encode``.

        Raises:
            ConfigError, ScanError, MaskError: as ``query``.
        """
        changes = query_settings(settings, self.modality)
        recipe = changed_recipe(self.recipe, getattr(changes, self.modality.name), self.modality.name)
        try:
            study = self._study(image, masks, regions, recipe, begin=begin)
        except (ScanError, MaskError) as error:
            raise with_setting(error, recipe, self.modality.name) from error
        begin("encode")
        return self.encode_organs(study, organs, recipe, changes.cut_off == "answer")

    def encode_organs(
        self, study: EncodedStudy, organs: Sequence[str] | None = None, recipe: Any = None, cut_off: bool = False
    ) -> EncodedStudy:
        """An image that is standardised, with more of its organs encoded.

        Args:
            organs: names; by default all that the model knows.
            recipe: how the image was read; the model's own by default.
            cut_off: encode organs that the field of view cuts off too; answers about them are marked.
        """
        names = list(self.known if organs is None else organs)
        vectors, readings = self._vectors(names, study.standardized, recipe or self.recipe, cut_off)
        return replace(study, vectors=study.vectors.joined(vectors), readings=study.readings | readings)

    def answer(
        self, study: EncodedStudy, questions: Sequence[str], everything: bool = False, prompts: Sequence[str] = ()
    ) -> Answers:
        """Answer questions about an image that is encoded; an organ that was not yet is encoded now.

        Args:
            study: as ``encode_study`` gave it, or ``load_study``.
            questions, everything, prompts: as for ``query``.

        Raises:
            VocabularyError: no question is understood.
            ModelError: nothing was asked.
        """
        return self._answered(self.understood(questions, everything, prompts), study)

    def _answered(self, requests: Sequence[AnswerRequest], study: EncodedStudy) -> Answers:
        named = dict.fromkeys(one.organ for one in requests if one.organ)
        missing = [organ for organ in named if not study.vectors.knows(organ)]
        if missing:
            study = self.encode_organs(study, missing)
        vectors, readings, made = study.vectors, study.readings, study.standardized
        answers = [
            replace(answer, read_from=readings[answer.organ].read_from) if answer.organ in readings else answer
            for answer in self._answers(requests, vectors)
        ]
        return Answers(
            name=study.name,
            masks=study.masks,
            answers=tuple(answers),
            standardized=made,
            modality=self.modality.name,
            displays=self._displays(answers, made),
            original=study.original,
            path=study.path,
            notes=self._notes(vectors),
            readings=readings,
        )

    def encode_image(
        self,
        images: ImageLike | Tensor,
        regions: Sequence[str] | Mapping[str, Any] | None = None,
        masks: Masks | None = None,
        boxes: GivenBoxes | None = None,
    ) -> Float[Tensor, "m *q e"]:
        """Unit vectors of organs, or of whole images, as answers compare them with ``encode_text``; on the CPU.

        Args:
            images: an image as ``query`` takes it; or channels that are made already, ``[b, c, *s]``.
            regions: of an image the names of its organs, one row each (several of each where ``observations`` are
                read); of channels what ``Release.encode_image`` wants. Without any: whole images.
            masks, boxes: of the image, as ``masks`` and ``regions`` of ``query``.

        Raises:
            ModelError: code ``no_organ``: an organ cannot be read in this image; and as ``Release.encode_image`` does.
            ScanError, MaskError: the image, its masks or its boxes cannot be used.
        """
        if isinstance(images, Tensor):
            return self._encode_channels(images, regions)
        if regions is None:
            return self._encode_channels(self.model_input(images)["image"], None)
        names = [self.dictionaries.organs[name].name for name in regions]
        standardized = self._study(images, masks, boxes, self.recipe).standardized
        found = self._vectors(names, standardized, self.recipe, cut_off=True)[0]
        for name in names:
            if name in found.reasons:
                raise ModelError(found.reasons[name], code="no_organ", fix="Leave it out, or say where it is.")
        return torch.from_numpy(np.stack([found.vectors[name] for name in names]))

    def model_input(self, image: ImageLike, organs: Sequence[str] = (), masks: Masks | None = None) -> dict[str, Any]:
        """What the model reads of an image: the channels that its encoder takes (as ONNX too), and where organs are.

        Args:
            image, masks: as for ``query``.
            organs: names; none: the whole image.

        Returns:
            ``image``: float32 ``[m, c, x, y, z]``, a crop of each organ, or ``[1, c, *s]``, the image; its channels
            are those that ``channel_names`` names. Of organs of scans also ``organ``, ``size``, ``study_index``, and
            ``mask``, ``labels`` or ``boxes``: what ``encode_image`` wants as regions.

        Raises:
            VocabularyError: an organ that the dictionary does not know.
            ModelError: code ``no_organ``: the model cannot read one of them in this image.
            ScanError, MaskError: the image or its masks cannot be used.
        """
        names = [self.dictionaries.organs[name].name for name in organs]
        standardized = self._study(image, masks, None, self.recipe, segmented=bool(names)).standardized
        readings = self._located(names, standardized, self.recipe)
        for reason in readings.values():
            if isinstance(reason, str):
                raise ModelError(reason, code="no_organ", fix="Leave it out.")
        regions = [reading.region for reading in readings.values() if isinstance(reading, OrganReading)]
        return self.reader.model_input(standardized, regions)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """What each channel of ``model_input`` shows; channels beyond these are zero."""
        return self.reader.channel_names

    def heat_maps(self, answers: Answers, pairs: Collection[Pair] | None = None) -> Iterator[HeatMap]:
        """Where each answer comes from (``inference.heatmap``): one map for each pair, one at a time, organ by organ.

        Args:
            answers: as ``query`` gave them; answers without a probability have no map.
            pairs: (organ, abnormality) of the answers wanted; all by default.
        """
        abnormalities_of: dict[str, list[str]] = {}
        for answer in answers.answers:
            pair = (answer.organ, answer.abnormality)
            if answer.probability is not None and (pairs is None or pair in pairs):
                names = abnormalities_of.setdefault(answer.organ, [])
                if answer.abnormality not in names:
                    names.append(answer.abnormality)
        study = InMemory(answers.standardized)
        return self.reader.maps(study, answers.readings, abnormalities_of, self.scorer)

    def standardize(
        self, image: ImageLike, masks: Masks | None = None, regions: GivenBoxes | None = None
    ) -> Standardized:
        """The image on the model's grid, by the recipe that the model was trained with: as preprocessing would store
        it."""
        return self._study(image, masks, regions, self.recipe).standardized

    def _study(
        self,
        image: ImageLike,
        masks: Masks | None,
        regions: GivenBoxes | None,
        recipe: Any,
        segmented: bool = True,
        begin: Callable[[str], object] = str,
    ) -> EncodedStudy:
        """An image and its organs; refused as preprocessing would refuse it, a scan before its masks are looked at."""
        if regions is not None and not self.modality.has_boxes:
            raise ConfigError(
                "Boxes of regions are for radiographs; this model was trained on scans.", fix="Give --masks."
            )
        organs, modality = self.dictionaries.organs, self.modality
        begin("read")
        original, checks = modality.read(self._path(image) if isinstance(image, Path | str) else image, recipe)
        refuse_errors(checks)
        begin("segment")
        locations = self._locations(
            original,
            recipe,
            Path(masks) if isinstance(masks, str) else masks,
            Path(regions) if isinstance(regions, str) else regions,
            segmented,
        )
        found = modality.standardize(original, locations, recipe, organs)
        refuse_errors((*locations.checks, *found.checks), "Look at the masks.")
        noticed = (*checks, *locations.checks, *found.checks)
        path = Path(image) if isinstance(image, Path | str) else None
        return EncodedStudy(
            name=private_name(path) if path is not None else f"{modality.image} in memory",
            masks=locations.source,
            standardized=replace(found, checks=noticed),
            original=original,
            label_map=locations.masks,
            path=path,
        )

    def _path(self, path: Path | str) -> Path:
        """The path of an image, unless it is one of another kind."""
        path = Path(path)
        other = looks_like(path)
        if other is None or other is self.modality:
            return path
        raise ScanError(
            f"This model was trained on {self.modality.images}, and {private_name(path)} is a {other.image}.",
            code="other_modality",
            fix=f"Give {self.modality.files}, or ask a model that was trained on {other.images}.",
        )

    def _locations(
        self,
        image: Any,
        recipe: Any,
        masks: Path | LabelMap | None,
        regions: Path | Sequence[Region] | None,
        segmented: bool,
    ) -> OrganLocations:
        """Where organs are; of a scan without masks by TotalSegmentator, or anywhere where that cannot run and the
        model finds organs without."""
        organs = self.dictionaries.organs

        def segmenter(scan: Scan) -> tuple[LabelMap, Checks]:
            return segment(scan, self.modality.segmentation(recipe) or SegmentationSettings(), organs), ()

        try:
            given = GivenOrgans(masks, regions, segmenter=segmenter if segmented else None)
            return self.modality.locate(image, recipe, organs, given)
        except MaskError as error:
            if masks is not None or regions is not None:
                raise
            if not {"mask", "labels", "boxes"} & {*self.release.model.region_inputs}:
                return OrganLocations(source="none: the model reads the whole scan")
            raise MaskError(
                f"The scan comes without masks, and they cannot be made: {error.message}",
                code=error.code,
                fix=f"Give the scan's organ masks (ctglip query: --masks). {error.fix}".strip(),
            ) from error

    def _located(self, organs: Sequence[str], standardized: Standardized, recipe: Any) -> dict[str, OrganReading | str]:
        return self.reader.locate(organs, standardized, self.trained, getattr(recipe, "min_organ_ml", 0.0))

    def _vectors(
        self, organs: Sequence[str], standardized: Standardized, recipe: Any, cut_off: bool
    ) -> tuple[OrganVectors, dict[str, OrganReading]]:
        """Encode those organs that can be read, each once; and how each is read.

        Args:
            cut_off: read organs that the field of view cuts off too.
        """
        found = OrganVectors()
        readings: dict[str, OrganReading] = {}
        for organ, reading in self._located(organs, standardized, recipe).items():
            if isinstance(reading, str):
                found.reasons[organ] = reading
            elif reading.cut_off and not cut_off:
                found.reasons[organ] = reading.cut_off + CUT_OFF_HINT
            else:
                readings[organ] = reading
                if reading.cut_off:
                    found.marks[organ] = reading.cut_off
        for how in sorted({reading.reading for reading in readings.values()}):
            regions = [reading.region for reading in readings.values() if reading.reading == how]
            images = self.reader.prepare(InMemory(standardized), regions)
            encoded = self.reader.encode(images, self.reader.split(regions), how)
            for region, vector, features in zip(regions, encoded.diagnosis, encoded.features, strict=True):
                entry = self.dictionaries.organs[region.organ]
                if np.isnan(vector).any():
                    verb = "are" if entry.plural else "is"
                    found.reasons[region.organ] = f"The {entry.display} {verb} too small for the model's grid."
                    del readings[region.organ]
                    continue
                found.vectors[region.organ] = vector
                found.verdicts[region.organ] = self._verdict(region, features, how)
        return found, readings

    def _verdict(self, region: Any, features: np.ndarray, how: str) -> Verdict | None:
        if self.familiarity is None or how != self.reader.reading:
            return None
        hu = (region.mean_hu, region.sd_hu) if isinstance(region, OrganRow) else None
        return self.familiarity.compare(region.organ, hu, features, self.dictionaries.organs[region.organ].display)
