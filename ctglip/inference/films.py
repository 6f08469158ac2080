"""One film in, answers out: read and standardised by the model's own recipe, which preprocessing used too."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ctglip.data.film_input import FilmInput, film_input
from ctglip.errors import MaskError, ModelError, ScanError
from ctglip.files import told_name
from ctglip.film.io import Film, read_film
from ctglip.film.masks import read_film_masks
from ctglip.film.recipe import FilmRecipe
from ctglip.film.regions import Region, read_regions, region_entries, regions_of_masks
from ctglip.film.standardize import standardize_film
from ctglip.inference.answerer import Answerer, Asked, Seen
from ctglip.inference.answers import ScanAnswers
from ctglip.inference.familiarity import Verdict
from ctglip.inference.film_encoding import (
    Boxes,
    Read,
    Reading,
    boxes_of,
    encode_films,
    film_settings,
    on_window,
    organ_box,
    queries_of,
    reading_of,
    shown_on_films,
    whole_film,
)
from ctglip.inference.film_maps import film_maps
from ctglip.inference.model_input import channel_names
from ctglip.inference.observations import observation_maps
from ctglip.inference.query_settings import changed_recipe, query_settings, with_setting
from ctglip.inference.scoring import Pair
from ctglip.models.release import Release
from ctglip.types import OrganRow, Standardized

_VOLUMES = (".nii", ".nii.gz", ".nrrd")


@dataclass(frozen=True)
class FilmAnswers(ScanAnswers):
    """All answers about one film; ``scan`` is the film's file, ``grid`` its rows and columns with pixels to mm.

    Attributes:
        regions: the boxes that are known, on the standardised film.
        film: what the model read.
        places: of each organ that was looked at, how and where.
        original: the film as it was read.
    """

    regions: tuple[Region, ...] = ()
    film: FilmInput | None = None
    places: tuple[tuple[OrganRow, Reading], ...] = ()
    original: Film | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data: answers, boxes, quality checks."""
        return {
            "film": self.scan,
            "masks": self.masks,
            "notes": list(self.notes),
            "answers": [asdict(answer) for answer in self.answers],
            "regions": [asdict(region) for region in self.regions],
            "checks": [asdict(check) for check in self.standardized.checks],
        }


@dataclass(frozen=True)
class FilmMap:
    """Where an answer about a film comes from.

    Attributes:
        organ, abnormality: of the question.
        values: on the model's window, see ``film_maps.film_maps``.
        to_standard, to_file: 4x4, (row, column, 0) of the window to pixels of the standardised film, and of the file
            (``film_maps.laid_on`` takes them).
    """

    organ: str
    abnormality: str
    values: Float[np.ndarray, "h w"]
    to_standard: Float[np.ndarray, "4 4"]
    to_file: Float[np.ndarray, "4 4"]


@dataclass(frozen=True)
class _Place:
    """How an organ is read from a film, and in whose words."""

    row: OrganRow
    reading: Reading
    words: str


class FilmPipeline(Answerer):
    """A trained model that answers questions about chest films.

    Args:
        release: as ``models.release.load_release`` gives it.
        read: organs as the model finds them, the ``whole`` film, or its ``observations`` (of PLACE, re-implemented from
            the abstract): the best one answers, and maps show where its query looks.

    Raises:
        ModelError: code ``not_aligned``: a model that was trained without texts; ``other_modality``: one of scans;
            ``no_whole_films``, ``no_observations``: it cannot be read so.
    """

    def __init__(self, release: Release, read: Read = "organs") -> None:
        reading = reading_of(release.model, read)
        super().__init__(release, reading == "observations", reading)
        self.recipe = FilmRecipe.model_validate(release.recipe)
        self.settings = film_settings(release)
        self.reading = reading
        self.queries = queries_of(release.organs, self.dictionaries.organs)

    @property
    def known(self) -> Collection[str]:
        """The organs of training, or where it named none those that a chest film shows."""
        return self.trained or shown_on_films(self.dictionaries.organs)

    def query(
        self,
        film: Path | str | Film,
        questions: Sequence[str],
        masks: Path | str | None = None,
        everything: bool = False,
        regions: Path | str | Sequence[Region] | None = None,
        prompts: Sequence[str] = (),
        settings: Sequence[str] = (),
    ) -> FilmAnswers:
        """Answer questions about one film.

        Args:
            film: PNG, JPEG or DICOM file, or a film in memory.
            questions: in words, see ``inference.questions``.
            masks: picture of organ numbers or of two lungs; organs are found by the boxes around them.
            everything: ask, after the questions, for every abnormality of the dictionary of every organ of training.
            regions: boxes in the film's pixels: a file as ``film.regions.read_regions`` reads it, or the boxes.
            prompts, settings: as ``Pipeline.query`` takes them (``"film.label_map={1: lung_left}"``).

        Raises:
            ConfigError: a setting that there is not, or that the model was trained with.
            VocabularyError: no question is understood (before the film is read).
            ScanError, MaskError: the film, its masks or its boxes cannot be used; ``other_modality``: a CT scan.
            ModelError: nothing was asked.
        """
        asked = self.understood(questions, everything, prompts)
        recipe = changed_recipe(self.recipe, query_settings(settings, "film").film, "film")
        try:
            standardized, placed, read = self.standardize(film, masks, regions, recipe)
        except (ScanError, MaskError) as error:
            raise with_setting(error, recipe, "film") from error
        seen, places, shown = self._seen(asked, standardized, placed)
        told = [
            replace(a, read_from=places[a.organ].words) if a.organ in places else a for a in self._told(asked, seen)
        ]
        displays = self._displays(told, standardized)
        return FilmAnswers(
            scan="film in memory" if isinstance(film, Film) else told_name(Path(film)),
            masks=_origin(masks, regions),
            answers=tuple(told),
            standardized=standardized,
            displays=displays,
            grid=(read.pixels.shape, _source_affine(read)),
            source=None if isinstance(film, Film) else Path(film),
            regions=placed,
            film=shown,
            places=tuple((place.row, place.reading) for place in places.values()),
            original=read,
            notes=self._notes(seen),
        )

    def encode_image(
        self,
        images: Path | str | Film | Tensor,
        regions: Sequence[str] | Mapping[str, Any] | None = None,
        masks: Path | str | None = None,
        boxes: Path | str | Sequence[Region] | None = None,
    ) -> Float[Tensor, "m *q e"]:
        """Unit vectors of organs, or of whole films, as answers compare them with ``encode_text``; on the CPU.

        Args:
            images: a film as ``query`` takes it; or channels that are made already, ``[b, 1, h, w]``.
            regions: of a film the names of its organs, one row each (several of each where ``observations`` are read);
                of channels what ``Release.encode_image`` wants. Without any: whole films.
            masks, boxes: of the film, as ``masks`` and ``regions`` of ``query``.

        Raises:
            ModelError: code ``no_organ``: an organ cannot be read in this film; and as ``Release.encode_image`` does.
            ScanError, MaskError: the film, its masks or its boxes cannot be used.
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

    def model_input(self, film: Path | str | Film) -> dict[str, Any]:
        """What the model reads of a film: ``image``, float32 ``[1, 1, h, w]``, the channel that its encoder takes (as
        ONNX too); ``channel_names`` says what it shows."""
        image = film_input(self.standardize(film)[0].image, self.settings).image
        return {"image": torch.from_numpy(image)[None]}

    @property
    def channel_names(self) -> tuple[str, ...]:
        """What the channel of ``model_input`` shows."""
        return channel_names(self.release)

    def standardize(
        self,
        film: Path | str | Film,
        masks: Path | str | None = None,
        regions: Path | str | Sequence[Region] | None = None,
        recipe: FilmRecipe | None = None,
    ) -> tuple[Standardized, tuple[Region, ...], Film]:
        """The film as preprocessing would store it with the model's recipe, its boxes, and as it was read."""
        recipe = recipe or self.recipe
        read, checks = (film, ()) if isinstance(film, Film) else read_film(_film_file(Path(film)), recipe)
        labels, given = None, {}
        if masks is not None:
            rows, columns = read.pixels.shape
            organs = self.dictionaries.organs
            labels, noticed = read_film_masks(Path(masks), (rows, columns), recipe, organs)
            checks = (*checks, *noticed)
            given = {region.name: region for region in regions_of_masks(labels, organs.label_names())}
        if regions is not None:
            boxes = read_regions(Path(regions)) if isinstance(regions, str | Path) else regions
            given |= {region.name: region for region in boxes}
        found, placed = standardize_film(read, recipe, labels, tuple(given.values()))
        return replace(found, checks=(*checks, *found.checks)), placed, read

    def heat_maps(self, answers: FilmAnswers, pairs: Collection[Pair] | None = None) -> Iterator[FilmMap]:
        """Where each answer comes from: one map for each pair.

        Args:
            answers: as ``query`` gave them; answers without a probability have no map.
            pairs: (organ, abnormality) of the answers wanted; all by default.
        """
        assert answers.film is not None
        assert answers.grid is not None
        to_standard = answers.film.affine()
        to_file = np.linalg.inv(answers.grid[1]) @ answers.standardized.affine @ to_standard
        places: dict[str, tuple[OrganRow, Reading]] = {place[0].organ: place for place in answers.places}
        answered = [(a.organ, a.abnormality) for a in answers.answers if a.probability is not None]
        for organ in dict.fromkeys(organ for organ, _ in answered):
            names = dict.fromkeys(n for o, n in answered if o == organ and (pairs is None or (o, n) in pairs))
            if names:
                asked, model = [(organ, name) for name in names], self.release.model
                row, reading = places[organ]
                if reading == "observations":
                    found = observation_maps(model, answers.film, self.scorer.sides(asked)[0])
                else:
                    axes = self.scorer.axes(asked)
                    found = film_maps(model, answers.film, row, self.queries.get(organ, 0), reading, axes)
                for name, values in zip(names, found, strict=True):
                    yield FilmMap(organ, name, values, to_standard, to_file)

    def _seen(
        self, asked: Sequence[Asked], standardized: Standardized, regions: Sequence[Region]
    ) -> tuple[Seen, dict[str, _Place], FilmInput]:
        film = film_input(standardized.image, self.settings)
        boxes = boxes_of(regions)
        places: dict[str, _Place] = {}
        reasons: dict[str, str] = {}
        for organ in dict.fromkeys(one.organ for one in asked if one.organ):
            found = self._place(organ, boxes, film)
            if isinstance(found, _Place):
                places[organ] = found
            else:
                reasons[organ] = found
        vectors: dict[str, np.ndarray] = {}
        verdicts: dict[str, Verdict | None] = {}
        readings: list[Reading] = [place.reading for place in places.values()]
        for reading in sorted(set(readings)):
            rows = [place.row for place in places.values() if place.reading == reading]
            read = encode_films(self.release.model, [film], [rows], self.queries, reading)
            known = self.familiarity if reading == self.reading else None
            for row, vector, features in zip(rows, read.diagnosis, read.features, strict=True):
                vectors[row.organ] = vector
                display = self.dictionaries.organs[row.organ].display
                verdicts[row.organ] = None if known is None else known.judge(row, features, display)
        return Seen(vectors, reasons, verdicts), places, film

    def _place(self, organ: str, boxes: Boxes, film: FilmInput) -> _Place | str:
        """How an organ is read: from its box, by its query, from the whole film; or why it is not."""
        entry, release = self.dictionaries.organs[organ], self.release
        verb = "are" if entry.plural else "is"
        whole = release.model.settings.whole_image
        if organ not in self.trained and organ not in shown_on_films(self.dictionaries.organs):
            return f"The {entry.display} {verb} not shown on a chest film."
        everywhere = _Place(whole_film(organ, film.shape), "whole", "the whole film")
        if self.reading == "whole":
            return everywhere
        if self.reading == "observations":
            return _Place(everywhere.row, "observations", "the film's observations")
        if self.reading == "query":
            if organ in self.queries:
                return _Place(whole_film(organ, film.shape), "query", "a learned query")
            return everywhere if whole else f"The model has learned no query for the {entry.display}."
        found = organ_box(organ, boxes, self.dictionaries.organs)
        if found is not None and on_window(film, [found[0]], "box")[0]:
            shown = " and the ".join(region_entries()[name].display for name in found[1])
            several = "boxes" if len(found[1]) > 1 else "box"
            return _Place(found[0], "box", f"the {several} of the {shown}")
        if whole:
            return everywhere
        what = "There is no box of" if found is None else "The middle of the film, which the model sees, leaves out"
        return f"{what} the {entry.display}."


def _film_file(path: Path) -> Path:
    if path.is_dir() or path.name.lower().endswith(_VOLUMES):
        raise ScanError(
            "This model was trained on films, and is asked about a CT scan.",
            code="other_modality",
            fix="Give a PNG, JPEG or DICOM film, or ask a model that was trained on scans.",
        )
    return path


def _source_affine(film: Film) -> np.ndarray:
    affine = np.eye(4)
    affine[0, 0], affine[1, 1] = film.spacing_mm or (1.0, 1.0)
    return affine


def _origin(masks: Path | str | None, regions: object) -> str:
    """Where organs are known from, in words."""
    said = [] if masks is None else [told_name(Path(masks))]
    if isinstance(regions, str | Path):
        said.append(told_name(Path(regions)))
    elif regions is not None:
        said.append("boxes in memory")
    return ", ".join(said) or "none"
