"""Layers that others laid on CT-RATE: RadGenome-ChestCT's regions and ReXGroundingCT's drawn findings."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ctglip.cohorts.base import CohortCells, CohortReader, CohortSettings, CohortTables, Localization, OrganSentence
from ctglip.cohorts.ct_rate import CtRate, volume_metadata
from ctglip.cohorts.ct_rate_volumes import VOLUME, CtRateSettings
from ctglip.cohorts.disk import Disk
from ctglip.cohorts.organ_names import organ_of
from ctglip.errors import CohortError
from ctglip.files import read_json
from ctglip.vocabulary.abnormalities import load_abnormalities

_LISTED = 12
_KEY = "Volumename"
_PREPROCESSED = re.compile(r"(?:train|valid)_preprocessed")


class OnCtRateSettings(CohortSettings):
    """What can be chosen of either.

    Attributes:
        ct_rate: the folder of CT-RATE: its volumes, reports and metadata are taken.
        version: of CT-RATE's volumes.
    """

    ct_rate: Path | None = None
    version: Literal["auto", "1", "2"] = "auto"


class RadGenomeSettings(OnCtRateSettings):
    """What can be chosen of RadGenome-ChestCT.

    Attributes:
        valid_as: the split of CT-RATE's official validation studies.
    """

    valid_as: Literal["val", "test"] = "test"


def ct_rate_rows(settings: OnCtRateSettings, tables: CohortTables) -> dict[str, CohortCells]:
    """CT-RATE's rows by volume, with absolute paths; none where its folder was not given."""
    if settings.ct_rate is None:
        return {}
    chosen = CtRateSettings(reconstructions="all", version=settings.version)
    found = CtRate().read(Disk(settings.ct_rate), chosen)
    tables.facts += [f"CT-RATE: {fact}" for fact in found.facts]
    root = settings.ct_rate.resolve()
    for row in found.rows:
        for name in ("image", "masks"):
            row[name] = str(root / str(row[name])) if row[name] else None
    return {str(row["study_id"]): row for row in found.rows}


class RadGenome(CohortReader):
    """Reads RadGenome-ChestCT."""

    name = "radgenome"
    Settings = RadGenomeSettings
    leaves = r"seg_(?:train|valid)_.*"

    def expects(self, settings: RadGenomeSettings) -> tuple[tuple[str, ...], ...]:
        """Its own tables, and CT-RATE's metadata where CT-RATE itself is not given."""
        own = settings.ct_rate is not None
        return tuple(names for names in self.data.expects if not (own and names[0].startswith("metadata/")))

    def read(self, disk: Disk, settings: RadGenomeSettings) -> CohortTables:
        """RadGenome-ChestCT in our form, on CT-RATE's own volumes where its folder is given (then with CT-RATE's masks:
        RadGenome's fit its preprocessed volumes alone), else on the preprocessed ones."""
        tables = CohortTables()
        theirs = ct_rate_rows(settings, tables)
        sentences = self._sentences(disk, tables)
        rows = [row | {"study_id": name} for name in sentences if (row := theirs.get(name))] if theirs else (
            self._preprocessed(disk, sentences, tables)
        )  # fmt: skip
        for name in sorted(sentences.keys() - {str(row["study_id"]) for row in rows}):
            tables.exclude(name, "image_missing", "It has sentences and no volume.")
        tables.rows = [row | {"split": row["split"] if row["split"] == "train" else settings.valid_as} for row in rows]
        tables.organ_text = [text for found in sentences.values() for text in found]
        self._labels(disk, tables)
        return tables

    def _sentences(self, disk: Disk, tables: CohortTables) -> dict[str, list[OrganSentence]]:
        """The sentences of each volume, with the organ that each is of."""
        found: defaultdict[str, list[OrganSentence]] = defaultdict(list)
        names = [n for n in ("train_region_report.csv", "validation_region_report.csv", "valid_region_report.csv")
                 if disk.find(f"radgenome_files/{n}")]  # fmt: skip
        unknown: Counter[str] = Counter()
        for name in names or ["train_region_report.csv"]:
            table = disk.table(f"radgenome_files/{name}", columns=(_KEY, "Anatomy", "Sentence"))
            for volume, anatomy, sentence in table.select(_KEY, "Anatomy", "Sentence").iter_rows():
                if volume and sentence:
                    stem, region = str(volume).split(".")[0], anatomy or ""
                    organ = organ_of(region, self.data.organs)
                    unknown[region] += organ is None
                    found[stem].append(OrganSentence(stem, organ, sentence, region, "radgenome"))
        lost = [f"{region or 'the whole scan'} ({count})" for region, count in unknown.most_common(_LISTED) if count]
        if lost:
            tables.facts.append(f"Regions that are no organ of ours: {', '.join(lost)}.")
        return found

    def _preprocessed(
        self, disk: Disk, sentences: dict[str, list[OrganSentence]], tables: CohortTables
    ) -> list[CohortCells]:
        """Rows of the preprocessed volumes, with slope and intercept where CT-RATE's metadata table lies beside."""
        volumes = {PurePosixPath(path).name.split(".")[0]: (path, match) for path, match in disk.named(VOLUME)
                   if _PREPROCESSED.search(path)}  # fmt: skip
        if not volumes:
            raise disk.nothing("dataset/train_preprocessed/train_1/train_1a/train_1_a_1.nii.gz")
        metadata = volume_metadata(disk)
        tables.facts.append(
            "Volumes are RadGenome's preprocessed ones. "
            + ("Slope and intercept come from CT-RATE's metadata table; their headers give the place." if metadata
               else "CT-RATE's metadata table is not there: numbers count as they are stored, and a scan without its "
                    "intercept is refused when it is read.")
        )  # fmt: skip
        masks: dict[str, str] = {}
        for path in sorted(disk.leaves, key=lambda path: "anatomy" not in path):
            masks.setdefault(PurePosixPath(path).name.removeprefix("seg_"), path)
        rows: list[CohortCells] = []
        for name, (path, match) in sorted(volumes.items()):
            details = metadata.get(name, {})
            unique = dict.fromkeys(text.sentence for text in sentences.get(name, ()))
            rows.append({
                "study_id": name,
                "patient_id": match[1].rsplit("_", 1)[0],
                "image": path,
                "masks": masks.get(name),
                "findings": " ".join(unique) or None,
                "modality": "ct",
                "split": "train" if match[2] == "train" else "test",
                "hu_slope": details.get("RescaleSlope"),
                "hu_intercept": details.get("RescaleIntercept"),
            })  # fmt: skip
        return rows

    def _labels(self, disk: Disk, tables: CohortTables) -> None:
        """Disorders of a volume are there; a finding that a question denies is not."""
        abnormalities, lost = load_abnormalities(), Counter[str]()

        def note(volume: str | None, theirs: str, value: int) -> None:
            known = abnormalities.find(theirs.strip())
            if known is None:
                lost[theirs.strip().lower()] += 1
            elif volume:
                labels = tables.labels.setdefault(volume.split(".")[0], {})
                labels[known.name] = max(value, labels.get(known.name) or 0)

        for part in ("train", "validation", "valid"):
            for row in disk.rows_of(f"radgenome_files/{part}_case_disorders.csv", columns=(_KEY, "Disorders")):
                for disorder in (row["Disorders"] or "").split(","):
                    if disorder.strip():
                        note(row[_KEY], disorder, 1)
            for row in disk.rows_of(f"radgenome_files/{part}_vqa_presence.csv", columns=(_KEY, "Finding", "Presence")):
                answer = (row["Presence"] or "").strip(". ").lower()
                if answer in ("yes", "no") and row["Finding"]:
                    note(row[_KEY], row["Finding"], int(answer == "yes"))
        tables.lost |= {name: f"no abnormality of ours ({count} times)" for name, count in lost.most_common(_LISTED)}


class RexSettings(OnCtRateSettings):
    """What can be chosen of ReXGroundingCT.

    Attributes:
        edition: of its list: ``dataset`` (2,992 / 50 / 100) or ``challenge`` (2,992 / 200 / 300).
    """

    edition: Literal["dataset", "challenge"] = "dataset"


class RexGrounding(CohortReader):
    """Reads ReXGroundingCT."""

    name = "rexgrounding"
    Settings = RexSettings

    def read(self, disk: Disk, settings: RexSettings) -> CohortTables:
        """ReXGroundingCT in our form: the split is the list's key, whatever a name begins with; patients are those of
        CT-RATE, so that those who stand in several splits are found (``leaks`` says what becomes of them)."""
        tables = CohortTables()
        file_name = "dataset.json" if settings.edition == "dataset" else "MICCAI_challenge_dataset.json"
        path = disk.find(file_name)
        if path is None:
            raise CohortError(f"{disk.root} has no {file_name}.", code="no_table", fix="Download it, or set edition.")
        tree: Any = read_json(disk.root / path)
        if not isinstance(tree, dict) or not all(isinstance(entries, list) for entries in tree.values()):
            raise CohortError(f"{disk.root / path}: expected lists of entries by split.", code="bad_table")
        theirs = ct_rate_rows(settings, tables)
        volumes_on_disk = {
            PurePosixPath(p).name.split(".")[0]: p for p, _ in disk.named(VOLUME) if "segmentations" not in p
        }
        masks = {PurePosixPath(p).name.split(".")[0]: p for p, _ in disk.named(VOLUME) if "segmentations" in p}
        other = 0
        for key, entries in tree.items():
            split = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}.get(
                key.lower()
            )
            for entry in entries:
                name = str(entry.get("name", "")).split(".")[0]
                match = re.fullmatch(VOLUME, f"{name}.nii.gz")
                if match is None:
                    tables.exclude(name or "?", "bad_name", f"{path}: {entry.get('name')!r} is no volume of CT-RATE.")
                    continue
                other += (match[2] == "train") != (split == "train")
                row = dict(theirs.get(name) or _bare(name, match, volumes_on_disk))
                tables.rows.append(row | {"study_id": name, "split": split})
                self._findings(name, entry, masks.get(name), tables)
        tables.facts.append(f"{other} names begin with another split than the list puts them into; the list counts.")
        if not theirs:
            tables.facts.append(
                "CT-RATE's folder was not given (ct_rate): volumes below this folder, no whole reports."
            )
        if without := sum(len(labels) > 0 and name not in masks for name, labels in tables.labels.items()):
            tables.facts.append(
                f"{without} volumes with findings have no mask (segmentations/): nothing is drawn there."
            )
        tables.lost |= self.data.lost
        return tables

    def _findings(self, name: str, entry: dict[str, Any], mask: str | None, tables: CohortTables) -> None:
        labels = tables.labels.setdefault(name, {})
        categories = entry.get("categories") or {}
        for number, sentence in sorted((entry.get("findings") or {}).items(), key=lambda item: int(item[0])):
            code = str(categories.get(number, ""))
            abnormality = self.data.findings.get(code)
            if abnormality:
                labels[abnormality] = 1
            organ = self.data.organs.get(code)
            tables.organ_text.append(
                OrganSentence(name, organ, str(sentence), code, "rexgroundingct", abnormality, "affirmed")
            )
            if mask is not None:
                drawn = Localization(name, str(sentence), abnormality, mask=mask, layer=int(number), organ=organ)
                tables.localization.append(drawn)


def _bare(name: str, match: re.Match[str], volumes_on_disk: dict[str, str]) -> CohortCells:
    """A row without CT-RATE's tables."""
    return {
        "patient_id": match[1].rsplit("_", 1)[0],
        "image": volumes_on_disk.get(name, f"{name}.nii.gz"),
        "modality": "ct",
    }
