"""A draft of one scan's report: passages of its organs, checked sentence by sentence, then findings and impression."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ctglip.config import validate
from ctglip.ct.dicom import series_files
from ctglip.data.reader import InMemory
from ctglip.files import is_dicom, read_json
from ctglip.inference.encoded_study import EncodedStudy
from ctglip.inference.heatmap import HeatMap
from ctglip.inference.pipeline import CUT_OFF_HINT, GivenBoxes, ImageLike, Masks, Pipeline
from ctglip.inference.query_settings import changed_recipe, query_settings
from ctglip.inference.scoring import Pair
from ctglip.models.release import load_release
from ctglip.pages.wording import format_interval
from ctglip.reports.contradictions import check_passage, first_sound
from ctglip.reports.parser import get_parser
from ctglip.tasks.report_settings import WritingSettings
from ctglip.tasks.report_writer import load_writer
from ctglip.types import Interval

DISCLAIMER = "Draft written by a model for research. It is not a medical device, and nothing in it is a diagnosis."
NOTHING_FOUND = "No abnormality is described in the organs that were read."


@dataclass(frozen=True)
class DraftedSentence:
    """One sentence of a draft.

    Attributes:
        text: as it was written.
        affirmed: abnormalities that it affirms, by the parser.
        fault: what the dictionaries hold against it; "" where nothing does.
    """

    text: str
    affirmed: tuple[str, ...] = ()
    fault: str = ""


@dataclass(frozen=True)
class DraftedOrgan:
    """What a draft says of one organ.

    Attributes:
        organ: name in the dictionary.
        display: as it is shown.
        sentences: none where nothing was written.
        reason: why it was not read: it is not in the scan ...
        remarks: what speaks against what is written: cut off, unlike those of training.
    """

    organ: str
    display: str
    sentences: tuple[DraftedSentence, ...] = ()
    reason: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReportDraft:
    """A draft, organ by organ in reading order.

    Attributes:
        name: of the image.
        organs: those that are written about.
        study: the image with its organs, for pictures.
        disclaimer: what stands above it: what it is not, and how good the writer was on test patients.
    """

    name: str
    organs: tuple[DraftedOrgan, ...]
    study: EncodedStudy
    disclaimer: str = DISCLAIMER

    @property
    def findings(self) -> str:
        """All passages, then the organs that were not read."""
        written = " ".join(one.text for organ in self.organs for one in organ.sentences)
        return " ".join(filter(None, (written, *self.not_read)))

    @property
    def not_read(self) -> tuple[str, ...]:
        """Why organs were not read, a sentence each."""
        return tuple(organ.reason for organ in self.organs if organ.reason)

    @property
    def impression(self) -> str:
        """The sentences that affirm something, or what stands in their place."""
        return " ".join(self.affirming) or self.without_impression

    @property
    def without_impression(self) -> str:
        """In place of an impression that is empty; a writer of nonsense affirms nothing either, and no scan is normal
        for that."""
        sentences = [one for organ in self.organs for one in organ.sentences]
        contradicted = sum(bool(one.fault) for one in sentences)
        if contradicted:
            return f"No impression: the dictionary contradicts {contradicted} of {len(sentences)} sentences."
        return NOTHING_FOUND

    @property
    def affirming(self) -> tuple[str, ...]:
        """The sentences that affirm something, in reading order."""
        return tuple(one.text for organ in self.organs for one in organ.sentences if one.affirmed)

    def pairs(self) -> Iterator[Pair]:
        """What is affirmed of which organ, by sentences that nothing speaks against: others may be of another organ."""
        for organ in self.organs:
            for sentence in organ.sentences:
                if not sentence.fault:
                    yield from ((organ.organ, name) for name in sentence.affirmed)

    def text(self) -> str:
        """The draft as plain text."""
        return f"{self.disclaimer}\n\nFINDINGS:\n{self.findings}\n\nIMPRESSION:\n{self.impression}\n"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "scan": self.name,
            "disclaimer": self.disclaimer,
            "findings": self.findings,
            "impression": self.impression,
            "organs": [asdict(organ) for organ in self.organs],
            "checks": [asdict(check) for check in self.study.standardized.checks],
        }


class ReportDrafter:
    """A tuned model that drafts reports.

    Args:
        folder: what ``finetune`` with ``task: report`` wrote.

    Attributes:
        pipeline: reads and answers.
        disclaimer: of its drafts.

    Raises:
        ModelError: code ``no_reports``: it is no such folder; ``not_aligned``: its model was trained without texts.
    """

    def __init__(self, folder: Path) -> None:
        self.writer = load_writer(folder / "head")
        self.disclaimer = " ".join(filter(None, (DISCLAIMER, _measured(folder / "results.json"))))
        release = load_release(folder)
        release.check_aligned()
        self.pipeline = Pipeline(release)
        self.writer.to(self.pipeline.reader.device)
        dictionaries = self.pipeline.dictionaries
        self.parser = get_parser(dictionaries.organs, dictionaries.abnormalities)

    def draft(
        self,
        image: ImageLike,
        masks: Masks | None = None,
        regions: GivenBoxes | None = None,
        settings: Sequence[str] = (),
        writing: Mapping[str, Any] | None = None,
    ) -> ReportDraft:
        """Draft the report of one image.

        Args:
            image, masks, regions, settings: as for ``Pipeline.query``.
            writing: settings of ``WritingSettings`` in place of those of the training.

        Raises:
            ConfigError, ScanError, MaskError: as ``Pipeline.query``.
        """
        return self.draft_of(self.pipeline.encode_study(image, self.writer.organs, masks, regions, settings), writing)

    def image_files(self, image: Path, settings: Sequence[str] = ()) -> list[Path]:
        """The files that a draft is about: of a DICOM folder those of the series that is read.

        Raises:
            ConfigError, ScanError: as ``draft``.
        """
        if self.pipeline.modality.name != "ct" or not (image.is_dir() or is_dicom(image)):
            return [image]
        changes = query_settings(settings, self.pipeline.modality)
        return series_files(image, changed_recipe(self.pipeline.recipe, changes.ct, "ct"))

    def draft_of(self, study: EncodedStudy, writing: Mapping[str, Any] | None = None) -> ReportDraft:
        """Draft the report of an image whose organs are encoded."""
        chosen = self.writer.settings.writing.model_dump() | dict(writing or {})
        how = validate(WritingSettings, chosen, "how reports are written")
        lacking = [organ for organ in self.writer.organs if not study.vectors.knows(organ)]
        study = self.pipeline.encode_organs(study, lacking)
        texts = self._passages(study, how)
        organs = tuple(self._drafted(organ, study, texts) for organ in self.writer.organs)
        return ReportDraft(study.name, organs, study, self.disclaimer)

    def heat_maps(self, draft: ReportDraft) -> list[HeatMap]:
        """Where what is affirmed comes from, by the model's own answers; one map for each (organ, abnormality)."""
        known: dict[str, list[str]] = {}
        for organ, name in dict.fromkeys(draft.pairs()):
            if organ in draft.study.readings:
                known.setdefault(organ, []).append(name)
        pipeline, study = self.pipeline, InMemory(draft.study.standardized)
        return list(pipeline.reader.maps(study, draft.study.readings, known, pipeline.scorer)) if known else []

    def _passages(self, study: EncodedStudy, writing: WritingSettings) -> dict[str, str]:
        """The passage of each organ that can be read."""
        reader, numbers = self.pipeline.reader, {name: n for n, name in enumerate(self.writer.organs)}
        found: dict[str, str] = {}
        readings = [one for organ, one in study.readings.items() if organ in numbers]
        for how in sorted({one.reading for one in readings}):
            regions = [one.region for one in readings if one.reading == how]
            images = reader.prepare(InMemory(study.standardized), regions)
            features = torch.from_numpy(reader.encode(images, reader.split(regions), how).features).to(reader.device)
            organ = torch.tensor([numbers[region.organ] for region in regions], device=features.device)
            for region, several in zip(regions, self.writer.write(features, organ, writing), strict=True):
                constrained = writing.constrain != "none"
                found[region.organ] = first_sound(several, region.organ, self.parser) if constrained else several[0]
        return found

    def _drafted(self, organ: str, study: EncodedStudy, texts: Mapping[str, str]) -> DraftedOrgan:
        made = DraftedOrgan(organ, self.pipeline.dictionaries.organs[organ].display)
        if organ not in texts:
            reason = study.vectors.reasons.get(organ, f"The {made.display} was not read.")
            return replace(made, reason=reason.removesuffix(CUT_OFF_HINT))
        sentences = tuple(
            DraftedSentence(
                one.text,
                tuple(dict.fromkeys(r.abnormality for r in one.findings if r.abnormality and r.status == "affirmed")),
                one.fault,
            )
            for one in check_passage(texts[organ], organ, self.parser)
        )
        verdict, mark = study.vectors.verdicts.get(organ), study.vectors.marks.get(organ, "")
        unlike = f"It is outside what this model has seen ({verdict.why})." if verdict and verdict.outside else ""
        return replace(made, sentences=sentences, remarks=tuple(filter(None, (mark, unlike))))


def _measured(results: Path) -> str:
    """How good the writer was on the test patients of its training, beside a report that calls everything normal."""
    if not results.is_file():
        return "How good this writer is was not kept."
    found = read_json(results)
    scores = {one["initialization"]: Interval(**one["score"]) for one in found["points"]}
    text = f"On {found['patients']} test patients its clinical F1 was {format_interval(Interval(**found['score']))}"
    normal = scores.get("normal")
    if normal is None:
        return f"{text}."
    worse = (found["score"]["value"] or 0.0) <= (normal.value or 0.0)
    verdict = " It is no better than that: do not use what it writes." if worse else ""
    return f"{text}, and {format_interval(normal)} with everything called normal.{verdict}"
