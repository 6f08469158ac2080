"""Measure the report parser: ``report_parsing.py labels|regions|radiographs|throughput|phrases|coverage|sets --help``.

The tables default to the development data under ``CTGLIP_REAL_DATA`` (default ``../shared/data``); any table of the
same layout can be given instead. ``--quick`` reads 50 rows, ``--json FILE`` writes the figures, ``--predictions FILE``
the answers in the reference's layout, ``labels --errors FILE`` every wrong answer with the sentences that led to it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ctglip.files import read_yaml
from ctglip.reports.parser import ReportParser, get_parser
from ctglip.types import Finding, Report
from ctglip.vocabulary.abnormalities import AbnormalityDictionary
from ctglip.vocabulary.organs import OrganDictionary

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("CTGLIP_REAL_DATA", HERE.parents[1] / "shared" / "data"))
PRESENT = ("affirmed", "uncertain")


def table_of(path: Path, arguments: argparse.Namespace, **options: Any) -> pl.DataFrame:
    """A table, or its first rows."""
    table = pl.read_csv(path, **(options or {"infer_schema": False}))
    return table.head(50) if arguments.quick else table


class Scores:
    """Counts of right and wrong 0/1 answers, and the usual figures from them."""

    def __init__(self) -> None:
        self.tp = self.fp = self.fn = 0

    def add(self, truth: bool, answer: bool) -> None:
        """Count one answer."""
        self.tp += truth and answer
        self.fp += answer and not truth
        self.fn += truth and not answer

    def row(self) -> dict[str, float | int]:
        """Positives, precision, recall, F1 (0 where nothing is there to divide by)."""
        positives = self.tp + self.fn
        precision = self.tp / max(self.tp + self.fp, 1)
        recall = self.tp / max(positives, 1)
        f1 = 2 * self.tp / max(2 * self.tp + self.fp + self.fn, 1)
        return {"positives": positives, "precision": precision, "recall": recall, "f1": f1}


def summary(scores: dict[str, Scores], least: int = 1) -> dict[str, Any]:
    """Figures a label, their macro mean (labels with at least ``least`` positives) and micro F1."""
    rows = {name: score.row() for name, score in scores.items()}
    counted = [row["f1"] for row in rows.values() if row["positives"] >= least]
    total = Scores()
    for score in scores.values():
        total.tp, total.fp, total.fn = total.tp + score.tp, total.fp + score.fp, total.fn + score.fn
    macro = sum(counted) / max(len(counted), 1)
    return {"labels": rows, "macro_f1": macro, "micro_f1": total.row()["f1"], "counted_labels": len(counted)}


def show(result: dict[str, Any]) -> None:
    """Print one table."""
    print(f"{'label':40s} {'pos':>5s} {'prec':>6s} {'rec':>6s} {'F1':>6s}")
    for name, row in result["labels"].items():
        print(f"{name:40s} {row['positives']:5d} {row['precision']:6.3f} {row['recall']:6.3f} {row['f1']:6.3f}")
    macro, micro, counted = (result[name] for name in ("macro_f1", "micro_f1", "counted_labels"))
    print(f"macro F1 {macro:.4f} over {counted} labels, micro F1 {micro:.4f}")


@dataclass(frozen=True)
class Rule:
    """Findings that make a label present: their abnormalities, organs (any where None) and statuses."""

    names: frozenset[str]
    instances: frozenset[str] | None
    statuses: frozenset[str]

    def holds(self, row: Finding) -> bool:
        """Whether one finding makes the label present."""
        placed = self.instances is None or row.organ in self.instances
        return placed and row.abnormality in self.names and row.status in self.statuses


class LabelMap:
    """Which findings make a label present.

    Args:
        labels: label to a list of ``{abnormalities, organs?, exact?, statuses?}``; kinds count unless ``exact``.
    """

    def __init__(
        self, labels: dict[str, list[dict[str, Any]]], organs: OrganDictionary, abnormalities: AbnormalityDictionary
    ) -> None:
        self.rules: dict[str, list[Rule]] = {}
        for label, rules in labels.items():
            for rule in rules:
                named = {name for name in rule["abnormalities"] if name in abnormalities}
                if not rule.get("exact"):
                    named |= {kind for name in named for kind in abnormalities.descendants(name)}
                spared = [name for name in rule.get("except", ()) if name in abnormalities]
                named -= {kind for name in spared for kind in (name, *abnormalities.descendants(name))}
                instances = {part for organ in rule.get("organs", ()) for part in (organ, *organs.parts_of(organ))}
                instances -= {part for organ in rule.get("not_in", ()) for part in (organ, *organs.parts_of(organ))}
                statuses = frozenset(rule.get("statuses", PRESENT))
                self.rules.setdefault(label, []).append(Rule(frozenset(named), frozenset(instances) or None, statuses))

    def read(self, findings: Sequence[Finding]) -> dict[str, bool]:
        """Label to whether a finding makes it present."""
        return {
            label: any(rule.holds(row) for row in findings for rule in rules) for label, rules in self.rules.items()
        }

    def evidence(self, findings: Sequence[Finding], label: str) -> list[str]:
        """The sentences that made a label present."""
        return list(dict.fromkeys(r.sentence for r in findings if any(rule.holds(r) for rule in self.rules[label])))


def truth_of(value: str | None) -> bool | None:
    """A reference's cell: 1 is present, the uncertain -1 is left out, all else is absent."""
    number = (value or "").strip().removesuffix(".0")
    return None if number == "-1" else number == "1"


def measure_labels(
    table: pl.DataFrame, mapping: dict[str, Any], columns: Sequence[str], errors: list[dict[str, str]] | None = None
) -> tuple[dict[str, Any], pl.DataFrame]:
    """Report-level labels of one table against the parser's.

    Args:
        table: one row a report.
        mapping: see ``mappings/``; ``rest`` names the label of reports in which nothing else is found.
        columns: where the text stands; the first is the findings, a second the impression. Rows without text count not.
        errors: takes each wrong answer, with the sentences that led to it.
    """
    parser, lexicon = get_parser(), get_parser().lexicon
    labels = LabelMap(mapping["labels"], lexicon.organs, lexicon.abnormalities)
    rest = mapping.get("rest", {"label": None, "except": []})
    scores = {label: Scores() for label in (*labels.rules, rest["label"]) if label}
    answers = []
    for record in table.iter_rows(named=True):
        texts = [record[column] or "" for column in columns]
        report = Report(findings=texts[0], impression=texts[1] if len(texts) > 1 else None)
        findings = parser.parse(report)
        found = labels.read(findings)
        if rest["label"]:
            spared = {kind for name in rest["except"] for kind in (name, *lexicon.abnormalities.descendants(name))}
            said = (row.abnormality for row in findings if row.abnormality and row.status in PRESENT)
            found[rest["label"]] = bool(findings) and spared.issuperset(said)
        answers.append({mapping["id"]: record[mapping["id"]], **{label: int(value) for label, value in found.items()}})
        for label, value in found.items() if findings else ():
            right = truth_of(record[label])
            if right is not None:
                scores[label].add(right, value)
                if right != value and errors is not None:
                    why = " | ".join(labels.evidence(findings, label)) if label in labels.rules else ""
                    wrong = "missed" if right else "invented"
                    errors.append({"id": record[mapping["id"]], "label": label, "wrong": wrong, "sentences": why})
    return summary(scores, mapping.get("least_positives", 1)), pl.DataFrame(answers)


def labels_command(arguments: argparse.Namespace) -> tuple[dict[str, Any], pl.DataFrame]:
    """18 labels of chest CT reports."""
    mapping = read_yaml(arguments.mapping)
    errors: list[dict[str, str]] = []
    found = measure_labels(table_of(arguments.table, arguments), mapping, mapping["text"], errors)
    if arguments.errors:
        pl.DataFrame(errors, schema=["id", "label", "wrong", "sentences"]).write_csv(arguments.errors)
    return found


def cxr_command(arguments: argparse.Namespace) -> tuple[dict[str, Any], pl.DataFrame]:
    """Chest X-ray reports: CheXpert's labels (made from the findings alone) and the indexed problems."""
    reports = table_of(arguments.reports, arguments)
    labels = pl.read_csv(arguments.labels, infer_schema=False).unique("subject_id", keep="first", maintain_order=True)
    table = labels.join(reports, left_on="subject_id", right_on="uid", how="inner" if arguments.quick else "left")
    mapping, problems = read_yaml(arguments.mapping), read_yaml(arguments.problems)
    result, answers = measure_labels(table, mapping, mapping["text"])
    result["chexpert_findings_and_impression"], _ = measure_labels(
        table.filter(pl.col("FINDINGS") != "-"), mapping, ["findings", "impression"]
    )
    indexed = pl.col("Problems").fill_null("").str.split(";")
    columns = [indexed.list.eval(pl.element().is_in(names)).list.any().cast(pl.Int8).cast(pl.String).alias(label)
               for label, names in problems["problems"].items()]  # fmt: skip
    usable = reports.filter(~pl.col("Problems").fill_null("").str.contains("No Indexing")).with_columns(columns)
    result["mesh_problems"], _ = measure_labels(usable, problems, ["findings", "impression"])
    return result, answers


class RegionMap:
    """Which region a finding belongs to, by its organ or its abnormality.

    Args:
        regions: region to ``{organs, abnormalities?, without?, yields?}``; parts of an organ belong where it does.
            ``yields`` names an organ that does not count in a sentence with the other region.
    """

    def __init__(self, regions: dict[str, dict[str, Any]], organs: OrganDictionary) -> None:
        def spread(names: Sequence[str]) -> set[str]:
            return {part for name in names for part in (name, *organs.parts_of(name))}

        self.organs = {
            region: spread(rule["organs"]) - spread(rule.get("without", ())) for region, rule in regions.items()
        }
        self.abnormalities = {
            name: region for region, rule in regions.items() for name in rule.get("abnormalities", ())
        }
        self.yields = {organ: other for rule in regions.values() for organ, other in rule.get("yields", {}).items()}

    def read(self, findings: Sequence[Finding]) -> set[str]:
        """Regions of one sentence's findings."""
        of_row = [(row, self._of(row)) for row in findings]
        every = {region for _, regions in of_row for region in regions}
        kept = (regions for row, regions in of_row if self.yields.get(row.organ or "") not in every)
        return {region for regions in kept for region in regions}

    def _of(self, row: Finding) -> set[str]:
        if row.abnormality in self.abnormalities:
            return {self.abnormalities[row.abnormality]}
        return {region for region, organs in self.organs.items() if row.organ in organs}


def plain(text: str) -> str:
    """Text as words alone, for comparing sentences that differ in quotes and blanks."""
    return " ".join(re.findall(r"\w+", text.lower()))


def regions_command(arguments: argparse.Namespace) -> tuple[dict[str, Any], pl.DataFrame]:
    """Sentences of findings sections against the regions they are listed under."""
    parser = get_parser()
    regions = RegionMap(read_yaml(arguments.mapping)["regions"], parser.lexicon.organs)
    truth: dict[str, dict[str, str]] = {}
    for volume, region, text in pl.read_csv(arguments.regions, infer_schema=False).iter_rows():
        study = re.sub(r"_\d+\.nii\.gz$", "", volume)  # valid_1_a_2.nii.gz is a reconstruction of valid_1_a
        listed = truth.setdefault(study, {})
        listed[region] = f"{listed.get(region, '')} | {plain(text or '')} |"
    scores = {region: Scores() for region in regions.organs}
    listed_only = Scores()
    answers = []
    for record in table_of(arguments.reports, arguments).iter_rows(named=True):
        named: dict[str, list[str]] = {}
        for sentence, findings in by_sentence(parser.parse(Report(findings=record["Findings_EN"]))):
            right = {r for r, text in truth.get(record["VolumeName"], {}).items() if plain(sentence) in text}
            found = regions.read(findings)
            for region in scores:
                scores[region].add(region in right, region in found)
                if right:
                    listed_only.add(region in right, region in found)
            for region in found:
                named.setdefault(region, []).append(sentence)
        volume = record["VolumeToAnnotate"]
        answers += [{"volume": volume, "region": r, "text": " ".join(named[r])} for r in sorted(named)]
    result = summary(scores)
    result["micro_f1_of_listed_sentences"] = listed_only.row()["f1"]
    return result, pl.DataFrame(answers)


def by_sentence(findings: Sequence[Finding]) -> list[tuple[str, list[Finding]]]:
    """Findings gathered by the sentence they come from, in order."""
    rows: dict[int, list[Finding]] = {}
    for row in findings:
        rows.setdefault(row.sentence_index, []).append(row)
    return [(group[0].sentence, group) for _, group in sorted(rows.items())]


def sets_command(arguments: argparse.Namespace) -> tuple[dict[str, Any], pl.DataFrame]:
    """Findings read right of sets of sentences and reports, and what is read wrongly."""
    sys.path.insert(0, str(HERE.parent))
    from tests.reports.scoring import read_cases, score

    scores = {path.stem: score(read_cases(path)[: 50 if arguments.quick else None]) for path in arguments.sets}
    wrong = [(name, text, "; ".join(lines)) for name, found in scores.items() for text, lines in found.wrong]
    table = pl.DataFrame(wrong, schema=["set", "text", "wrong"], orient="row")
    return {name: found.figures() for name, found in scores.items()}, table


def throughput_command(arguments: argparse.Namespace) -> tuple[dict[str, Any], pl.DataFrame]:
    """Full reports a second on one core, first with every sentence new, then as reports come (sentences repeat)."""
    table = table_of(arguments.reports, arguments)
    texts = ["\n".join(filter(None, row)) for row in table.select(arguments.columns).iter_rows()] * arguments.repeat
    started = time.perf_counter()
    parser = ReportParser(remember=0)
    built = time.perf_counter() - started
    result: dict[str, Any] = {"reports": len(texts), "words": sum(len(t.split()) for t in texts), "build_s": built}
    for name, reader in (("every_sentence_new", parser), ("sentences_remembered", ReportParser())):
        wall, cpu = time.perf_counter(), time.process_time()
        findings = sum(len(reader.parse(Report(findings=text))) for text in texts)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        result[name] = {"reports_per_cpu_s": len(texts) / cpu, "reports_per_s": len(texts) / wall, "findings": findings}
    result["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result, pl.DataFrame([{"how": how, **one} for how, one in result.items() if isinstance(one, dict)])


def phrases_command(arguments: argparse.Namespace) -> tuple[dict[str, Any], pl.DataFrame]:
    """Recall of hand-given terms that the dictionaries hold, in phrases about single lesions."""
    parser = get_parser()
    organs, abnormalities = parser.lexicon.organs, parser.lexicon.abnormalities
    scores = {"organs": Scores(), "abnormalities": Scores()}
    missed = []
    for entry in json.loads(Path(arguments.phrases).read_text(encoding="utf-8"))[: 50 if arguments.quick else None]:
        rows = parser.parse(Report(findings=entry["text"]))
        instances = {
            p for r in rows if r.organ for p in (r.organ, *organs.containing(r.organ), *organs.parts_of(r.organ))
        }
        kinds = {k for r in rows if r.abnormality for k in (r.abnormality, *abnormalities.ancestors(r.abnormality))}
        for term in entry["expanded_terms"]:
            organ, abnormality = organs.find(term), abnormalities.find(term)
            for name, known, found in (("organs", organ, instances), ("abnormalities", abnormality, kinds)):
                if known is not None:
                    scores[name].add(True, known.name in found)
                    if known.name not in found:
                        missed.append({"text": entry["text"], "term": term, "name": known.name})
    return summary(scores), pl.DataFrame(missed, schema=["text", "term", "name"])


def coverage_command(arguments: argparse.Namespace) -> tuple[dict[str, Any], pl.DataFrame]:
    """Share of sentences that find an organ, and the most frequent reasons where none is found."""
    table = table_of(arguments.notes, arguments, infer_schema=False, encoding="utf8-lossy")
    sentences, lost = 0, []
    for text in table[arguments.column]:
        for sentence, rows in by_sentence(get_parser().parse(text or "")):
            sentences += 1
            if all(row.organ is None for row in rows):
                lost.append({"sentence": sentence, "reason": rows[0].reason or ""})
    result = {"sentences": sentences, "placed": 1 - len(lost) / max(sentences, 1)}
    return result, pl.DataFrame(lost, schema=["sentence", "reason"])


COMMANDS = {
    "labels": labels_command, "regions": regions_command, "radiographs": cxr_command, "throughput": throughput_command,
    "phrases": phrases_command, "coverage": coverage_command, "sets": sets_command,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run one measurement, print its table, write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--quick", action="store_true", help="50 rows of each table: does it run?")
    common.add_argument("--json", type=Path, help="write the figures here")
    common.add_argument("--predictions", type=Path, help="write the answers here (CSV)")
    labels = commands.add_parser("labels", parents=[common])
    labels.add_argument("table", nargs="?", type=Path, default=DATA / "reports/chest_ct_18_labels/reports.csv")
    labels.add_argument("--mapping", type=Path, default=HERE / "mappings/chest_ct_18_labels.yaml")
    labels.add_argument("--errors", type=Path, help="write every wrong answer with its sentences here (CSV)")
    regions = commands.add_parser("regions", parents=[common])
    regions.add_argument("reports", nargs="?", type=Path, default=DATA / "reports/chest_ct_reports/reports.csv")
    regions.add_argument("regions", nargs="?", default=DATA / "reports/chest_ct_region_sentences/region_text.csv")
    regions.add_argument("--mapping", type=Path, default=HERE / "mappings/chest_ct_regions.yaml")
    radiographs = commands.add_parser("radiographs", parents=[common])
    radiographs.add_argument("labels", nargs="?", type=Path, default=DATA / "cxr/openi_reports/chexpert_labels.csv")
    radiographs.add_argument("reports", nargs="?", type=Path, default=DATA / "cxr/openi_reports/reports.csv")
    radiographs.add_argument("--mapping", type=Path, default=HERE / "mappings/chexpert_14_labels.yaml")
    radiographs.add_argument("--problems", type=Path, default=HERE / "mappings/openi_problems.yaml")
    throughput = commands.add_parser("throughput", parents=[common])
    throughput.add_argument("reports", nargs="?", type=Path, default=DATA / "reports/chest_ct_reports/reports.csv")
    throughput.add_argument("--columns", nargs="+", default=["Findings_EN", "Impressions_EN"])
    throughput.add_argument("--repeat", type=int, default=1)
    phrases = commands.add_parser("phrases", parents=[common])
    phrases.add_argument("phrases", nargs="?", default=DATA / "reports/deeplesion_phrases/hand_labeled_test_set.json")
    coverage = commands.add_parser("coverage", parents=[common])
    coverage.add_argument(
        "notes", nargs="?", default=DATA / "reports/radiologist_notes/AbdomenAtlasRadiologistsNotes.csv"
    )
    coverage.add_argument("--column", default="Notes")
    sets = commands.add_parser("sets", parents=[common])
    sets.add_argument(
        "sets", nargs="*", type=Path, default=sorted((HERE.parent / "tests/reports/sets").glob("*.jsonl"))
    )
    arguments = parser.parse_args(argv)
    result, answers = COMMANDS[arguments.what](arguments)
    if "macro_f1" in result:
        show(result)
    else:
        print(json.dumps(result, indent=1))
    for name, part in result.items():
        if isinstance(part, dict) and "macro_f1" in part:
            print(f"\n{name}")
            show(part)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    if arguments.predictions:
        answers.write_csv(arguments.predictions)
    return 0


if __name__ == "__main__":
    sys.exit(main())
