"""One scan in, answers out: read and standardised by the model's own recipe, each organ encoded once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ctglip.ct.io import read_scan
from ctglip.ct.masks import read_masks
from ctglip.ct.quality import check_scan, refuse_errors
from ctglip.ct.recipe import CtRecipe
from ctglip.ct.segmentation import SegmentationSettings, segment
from ctglip.ct.standardize import standardize
from ctglip.data.cache import CropCache, stacked
from ctglip.data.crops import CropSettings, OrganCrop, cut_crop
from ctglip.data.samples import OrganInstance
from ctglip.data.scans import ScanSettings, cut_scan
from ctglip.errors import MaskError, ModelError, ScanError
from ctglip.files import DICOM_SUFFIXES, private_name
from ctglip.inference.answerer import Answerer, Asked, Seen
from ctglip.inference.answers import ScanAnswers
from ctglip.inference.encoding import OrganEmbeddings, encode_crops
from ctglip.inference.familiarity import Verdict
from ctglip.inference.heatmap import HeatMap, crop_affine, crop_maps, grid_affine
from ctglip.inference.model_input import channel_names, scan_input
from ctglip.inference.query_settings import changed_recipe, query_settings, with_setting
from ctglip.inference.scans import encode_scan, readable, scan_maps
from ctglip.inference.scoring import Pair
from ctglip.models.release import Release
from ctglip.types import LabelMap, OrganRow, QualityCheck, Scan, Standardized
from ctglip.vocabulary.organs import Organ

_OPEN_ENDED = frozenset(
    {"aorta", "arteries", "veins", "digestive", "ribs", "muscles", "body_wall", "regions", "airways"}
)
_GRAZE = 0.1
"""A border face that holds less than this share of an organ's largest cross-section takes nothing away from it."""


class Pipeline(Answerer):
    """A trained model that answers questions about scans.

    Args:
        release: as ``models.release.load_release`` gives it.

    Raises:
        ModelError: code ``not_aligned``: a model that was trained without texts.
    """

    def __init__(self, release: Release) -> None:
        super().__init__(release)
        self.recipe = CtRecipe.model_validate(release.recipe)
        self.crops = CropSettings.model_validate(release.crops)

    def query(
        self,
        scan: Path | str | Scan,
        questions: Sequence[str],
        masks: Path | str | LabelMap | None = None,
        everything: bool = False,
        prompts: Sequence[str] = (),
        settings: Sequence[str] = (),
    ) -> ScanAnswers:
        """Answer questions about one scan.

        A question that is not understood has an answer that says so (``Answer.understood``), as long as there is
        another one.

        Args:
            scan: NIfTI or NRRD file, folder of DICOM slices, or a scan in memory.
            questions: in words, see ``inference.questions``.
            masks: organ masks of the scan; made by TotalSegmentator where there are none.
            everything: ask, after the questions, for every abnormality of the dictionary of every organ that the model
                was trained on (``Answer.seen`` says whether it has seen that abnormality there).
            prompts: sentences of one's own, ``"liver: The liver shows a large mass."``: each organ's similarity with
                them, and its rank among the dictionary's sentences; no probability.
            settings: changes for this query, ``"ct.series=3"`` (``inference.query_settings``).

        Raises:
            ConfigError: a setting that there is not, or that the model was trained with.
            VocabularyError: no question is understood (before the scan is read).
            ScanError, MaskError: the scan or its masks cannot be used.
            ModelError: nothing was asked.
        """
        asked = self.understood(questions, everything, prompts)
        wanted = query_settings(settings, "ct")
        recipe = changed_recipe(self.recipe, wanted.ct, "ct")
        try:
            read, checks = self._checked(scan, recipe)
            standardized, origin = self._standardized(read, checks, masks, recipe)
        except (ScanError, MaskError) as error:
            raise with_setting(error, recipe) from error
        seen = self._seen(asked, standardized, recipe, wanted.cut_off == "answer")
        answers = self._told(asked, seen)
        return ScanAnswers(
            scan="scan in memory" if isinstance(scan, Scan) else private_name(Path(scan)),
            masks=origin,
            answers=tuple(answers),
            standardized=standardized,
            displays=self._displays(answers, standardized),
            grid=(read.hu.shape, read.affine),
            source=None if isinstance(scan, Scan) else Path(scan),
            notes=self._notes(seen),
        )

    def encode_image(
        self,
        images: Path | str | Scan | Tensor,
        regions: Sequence[str] | Mapping[str, Any] | None = None,
        masks: Path | str | LabelMap | None = None,
    ) -> Float[Tensor, "m e"]:
        """Unit vectors of organs, or of whole scans, as answers compare them with ``encode_text``; on the CPU.

        Args:
            images: a scan as ``query`` takes it; or channels that are made already, ``[b, c, x, y, z]``.
            regions: of a scan the names of its organs, one row each; of channels what ``Release.encode_image`` wants.
                Without any: whole scans.
            masks: of the scan, as for ``query``.

        Raises:
            ModelError, ScanError, MaskError: as ``model_input`` and ``Release.encode_image`` do.
        """
        if isinstance(images, Tensor):
            return self._encode_channels(images, regions)
        made = self.model_input(images, () if regions is None else tuple(regions), masks)
        return self._encode_channels(made["image"], made)

    def model_input(
        self, scan: Path | str | Scan, organs: Sequence[str] = (), masks: Path | str | LabelMap | None = None
    ) -> dict[str, Any]:
        """What the model reads of a scan: the channels that its encoder takes (as ONNX too), and where organs are.

        Args:
            scan, masks: as for ``query``.
            organs: names; none: the whole scan.

        Returns:
            ``image``: float32 ``[m, c, x, y, z]``, a crop of each organ, or ``[1, c, x, y, z]``, the scan; its channels
            are those that ``channel_names`` names. Of organs also ``organ``, ``size``, ``study_index``, and ``mask``,
            ``labels`` or ``boxes``: what ``encode_image`` wants as regions.

        Raises:
            VocabularyError: an organ that the dictionary does not know.
            ModelError: code ``no_organ``: the model cannot read one of them in this scan.
            ScanError, MaskError: the scan or its masks cannot be used.
        """
        names = [self.dictionaries.organs[name].name for name in organs]
        if names or masks is not None:
            standardized, _ = self.standardize(scan, masks)
        else:
            standardized = standardize(self._checked(scan, self.recipe)[0], None, self.recipe, self.dictionaries.organs)
        found = self._rows(standardized, names)
        for name in names:
            if reason := self._no_answer(name, found.get(name), standardized, self.recipe):
                raise ModelError(reason, code="no_organ", fix="Leave it out.")
        rows = [found[name] for name in names]
        if self.release.reads_crops and rows:
            cache = self.cut(standardized, rows)
            drawn = cache.stack(self.crops).to("cpu")
            where = {"organ": names, "size": torch.from_numpy(cache.size), "study_index": torch.arange(len(rows))}
            return {"image": drawn.image, "mask": drawn.mask, **where}
        if self.release.scans is None:
            raise ModelError("This model reads organs, not whole scans.", code="regions", fix="Name organs.")
        return scan_input(self.release, standardized, rows, self.dictionaries.organs)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """What each channel of ``model_input`` shows; channels of a whole scan beyond these are zero."""
        return channel_names(self.release)

    def heat_maps(self, answers: ScanAnswers, pairs: Collection[Pair] | None = None) -> Iterator[HeatMap]:
        """Where each answer comes from (``inference.heatmap``): one map for each pair, one at a time, organ by organ.

        Args:
            answers: as ``query`` gave them; answers without a probability have no map.
            pairs: (organ, abnormality) of the answers wanted; all by default.
        """
        asked: dict[str, list[str]] = {}
        for answer in answers.answers:
            if answer.probability is None:
                continue
            pair = (answer.organ, answer.abnormality)
            names = asked.setdefault(answer.organ, [])
            if (pairs is None or pair in pairs) and pair[1] not in names:
                names.append(pair[1])
        standardized, release = answers.standardized, self.release
        axes = {organ: self.scorer.axes([(organ, name) for name in names]) for organ, names in asked.items() if names}
        rows = self._rows(standardized, list(axes))
        if not release.reads_crops:
            yield from self._maps_of_scan(standardized, [rows[organ] for organ in axes], asked, axes)
            return
        for organ in axes:
            crop = self._crops(standardized, [rows[organ]])[0]
            instance = crop_affine(crop, rows[organ], standardized.affine)
            found = crop_maps(release.model, crop, self.crops, axes[organ])
            for name, values in zip(asked[organ], found, strict=True):
                yield HeatMap(organ, name, values, instance)

    def _maps_of_scan(
        self,
        standardized: Standardized,
        rows: Sequence[OrganRow],
        asked: Mapping[str, Sequence[str]],
        axes: Mapping[str, Float[np.ndarray, "p e"]],
    ) -> Iterator[HeatMap]:
        release, organs = self.release, self.dictionaries.organs
        settings = ScanSettings.model_validate(release.scans)
        cut = cut_scan(standardized.image, standardized.organs, standardized.affine, settings)
        instance = grid_affine(cut.low, (cut.high - cut.low) / np.array(cut.hu.shape), standardized.affine)
        pairs = [(organ, name) for organ in axes for name in asked[organ]]
        every = [axes[row.organ] for row in rows]
        found = scan_maps(release.model, cut, rows, organs, release.organs, settings, every)
        for (organ, name), values in zip(pairs, found, strict=True):
            yield HeatMap(organ, name, values, instance)

    def standardize(
        self, scan: Path | str | Scan, masks: Path | str | LabelMap | None = None
    ) -> tuple[Standardized, str]:
        """The scan on the model's grid, by the recipe that the model was trained with; and where its masks are from."""
        read, checks = self._checked(scan, self.recipe)
        return self._standardized(read, checks, masks, self.recipe)

    def _checked(self, scan: Path | str | Scan, recipe: CtRecipe) -> tuple[Scan, tuple[QualityCheck, ...]]:
        """A scan and its checks, refused as preprocessing would refuse it, before any mask is looked at."""
        if isinstance(scan, Scan):
            read, checks = scan, check_scan(scan)
        else:
            read, checks = read_scan(_scan_path(Path(scan)), recipe)
        refuse_errors(checks)
        return read, checks

    def _standardized(
        self, read: Scan, checks: tuple[QualityCheck, ...], masks: Path | str | LabelMap | None, recipe: CtRecipe
    ) -> tuple[Standardized, str]:
        organs = self.dictionaries.organs
        more: tuple[QualityCheck, ...] = ()
        if masks is None:
            labels, origin = self._made(read, recipe)
        elif isinstance(masks, LabelMap):
            labels, origin = masks, "label map in memory"
        else:
            labels, more = read_masks(Path(masks), read, recipe, organs)
            origin = private_name(Path(masks))
        found = standardize(read, labels, recipe, organs)
        refuse_errors((*more, *found.checks), "Look at the masks.")
        return replace(found, checks=(*checks, *more, *found.checks)), origin

    def cut(self, standardized: Standardized, rows: Sequence[OrganRow]) -> CropCache:
        """The crops of some organs: the same voxels as training would cut from the store."""
        return stacked([OrganInstance("", row) for row in rows], self._crops(standardized, rows), self.crops)

    def _crops(self, standardized: Standardized, rows: Sequence[OrganRow]) -> list[OrganCrop]:
        organs = self.dictionaries.organs
        assert standardized.organs is not None
        return [
            cut_crop(
                standardized.image, standardized.organs, standardized.affine, organs[r.organ], r, organs, self.crops
            )
            for r in rows
        ]

    def _made(self, scan: Scan, recipe: CtRecipe) -> tuple[LabelMap | None, str]:
        """Masks from TotalSegmentator; none where it cannot run and the model finds organs without."""
        try:
            return self._segmented(scan, recipe), "TotalSegmentator"
        except MaskError:
            if not {"mask", "labels", "boxes"} & {*self.release.model.region_inputs}:
                return None, "none: the model reads the whole scan"
            raise

    def _segmented(self, scan: Scan, recipe: CtRecipe) -> LabelMap:
        try:
            return segment(scan, recipe.segmentation or SegmentationSettings(), self.dictionaries.organs)
        except MaskError as error:
            raise MaskError(
                f"The scan comes without masks, and they cannot be made: {error.message}",
                code=error.code,
                fix=f"Give the scan's organ masks (ctglip query: --masks). {error.fix}".strip(),
            ) from error

    def _seen(self, asked: Sequence[Asked], standardized: Standardized, recipe: CtRecipe, cut_off: bool) -> Seen:
        """Encode the organs that are asked about and can be read, each once."""
        organs = list(dict.fromkeys(one.organ for one in asked if one.organ))
        rows = self._rows(standardized, organs)
        reasons = {organ: self._no_answer(organ, rows.get(organ), standardized, recipe) for organ in organs}
        marks = {}
        for organ in organs:
            if not reasons[organ] and (cut := self._cut_off(rows[organ], standardized)):
                told, hint = (marks, "") if cut_off else (reasons, " Set cut_off=answer for an answer marked as such.")
                told[organ] = cut + hint
        whole = [organ for organ in organs if not reasons[organ]]
        found = self._encoded(standardized, [rows[organ] for organ in whole])
        vectors: dict[str, np.ndarray] = {}
        verdicts: dict[str, Verdict | None] = {}
        for organ, vector, features in zip(whole, found.diagnosis, found.features, strict=True):
            entry = self.dictionaries.organs[organ]
            if np.isnan(vector).any():
                verb = "are" if entry.plural else "is"
                reasons[organ] = f"The {entry.display} {verb} too small for the model's grid."
                continue
            vectors[organ] = vector
            known = self.familiarity
            verdicts[organ] = None if known is None else known.judge(rows[organ], features, entry.display)
        return Seen(vectors, reasons, verdicts, marks)

    def _rows(self, standardized: Standardized, organs: Sequence[str]) -> dict[str, OrganRow]:
        """The organs that the masks hold; without masks every organ asked for may be anywhere."""
        if standardized.organs is not None:
            return {row.organ: row for row in standardized.rows}
        x, y, z = standardized.image.shape
        return {organ: OrganRow(organ, (0, x, 0, y, 0, z), 0.0, 0.0, False) for organ in organs}

    def _encoded(self, standardized: Standardized, rows: Sequence[OrganRow]) -> OrganEmbeddings:
        """What the model makes of each organ; NaN for what meets findings of one that cannot be read in a scan."""
        release, organs = self.release, self.dictionaries.organs
        if release.reads_crops:
            cache = self.cut(standardized, rows)
            return encode_crops(release.model, cache, self.crops)
        settings = ScanSettings.model_validate(release.scans)
        cut = cut_scan(standardized.image, standardized.organs, standardized.affine, settings)
        there = np.array(readable(cut, rows, release.model, organs), dtype=bool).reshape(len(rows), 1)
        found = encode_scan(release.model, cut, rows, release.organs, settings)
        return replace(found, diagnosis=np.where(there, found.diagnosis, np.nan))

    def _no_answer(self, organ: str, row: OrganRow | None, standardized: Standardized, recipe: CtRecipe) -> str:
        """Why nothing can be said of an organ; empty where something can."""
        entry = self.dictionaries.organs[organ]
        verb = "are" if entry.plural else "is"
        if organ not in self.trained:
            return f"The model was not trained on the {entry.display}."
        labels = list(self.dictionaries.organs.roi_labels(organ))
        if row is None:
            there = standardized.organs is not None and bool(np.isin(standardized.organs, labels).any())
            why = f"too small (less than {recipe.min_organ_ml:g} ml)" if there else "not in the scan's masks"
            return f"The {entry.display} {verb} {why}."
        return ""

    def _cut_off(self, row: OrganRow, standardized: Standardized) -> str:
        """That the field of view cuts an organ off; empty where it is whole, or never is."""
        entry = self.dictionaries.organs[row.organ]
        labels = list(self.dictionaries.organs.roi_labels(row.organ))
        if not row.touches_border or _open_ended(entry) or _grazes(standardized, row, labels):
            return ""
        return f"The {entry.display} {'are' if entry.plural else 'is'} cut off by the field of view."


def _scan_path(path: Path) -> Path:
    """The path, unless it is a radiograph's: a picture, or a single DICOM file."""
    if path.is_file() and path.suffix.lower() in (".png", ".jpg", ".jpeg", *DICOM_SUFFIXES):
        raise ScanError(
            f"This model was trained on CT scans, and {private_name(path)} is a radiograph.",
            code="other_modality",
            fix="Give a NIfTI or NRRD file or a folder of DICOM slices, or ask a model of radiographs.",
        )
    return path


def _grazes(standardized: Standardized, row: OrganRow, labels: Sequence[int]) -> bool:
    """Whether an organ that touches the field of view's border loses next to nothing there: a lung's apex in the last
    slice. False where it ends at padding inside the volume, since nobody knows how much is missing."""
    assert standardized.organs is not None
    inside = np.isin(standardized.organs, labels)
    faces = []
    for axis, size in enumerate(inside.shape):
        areas = inside.sum(axis=tuple(other for other in range(3) if other != axis))
        ends = [areas[0]] * (row.box[2 * axis] == 0) + [areas[-1]] * (row.box[2 * axis + 1] == size)
        faces += [float(end) / float(areas.max()) for end in ends]
    return bool(faces) and max(faces) < _GRAZE


def _open_ended(organ: Organ) -> bool:
    """Whether scans hardly ever hold the whole of it, so that a cut end says nothing."""
    return organ.group in _OPEN_ENDED or (organ.group == "vertebrae" and bool(organ.parts))
