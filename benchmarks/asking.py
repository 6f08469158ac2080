"""How fast are questions answered? One scan with 1, 18 and 500 questions beside re-encoding for each question, and an
evaluation of many studies from cached features.

``python benchmarks/asking.py [--quick] [--json FILE] [--run RUN] [--scan SCAN --masks MASKS]``. Without a run a
small model of random weights is asked about a simulated scan: times do not depend on what was learned. With a run the
command ``ctglip query`` is timed as well, from its start to the page.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctglip.ct.io import read_scan
from ctglip.ct.masks import read_masks
from ctglip.ct.recipe import CtRecipe
from ctglip.data.samples import OrganInstance
from ctglip.evaluation.bootstrap import draw_patients
from ctglip.evaluation.labels import PairLabels
from ctglip.evaluation.zero_shot import evaluate_pairs, recognition
from ctglip.inference.pipeline import Pipeline
from ctglip.inference.readers import InMemory
from ctglip.models.release import Release, load_release
from ctglip.types import OrganRow

QUESTIONS = (1, 18, 500)


def random_release() -> Release:
    """The demo's model with random weights and hashed texts."""
    from ctglip.config import load_settings
    from ctglip.data.crops import CropSettings
    from ctglip.models.dual_encoder import DualEncoder
    from ctglip.models.region_readers import ModelInputs
    from ctglip.models.text import TextEncoderSettings
    from ctglip.resources import resource
    from ctglip.training.pretrain_config import PretrainConfig
    from ctglip.vocabulary.abnormalities import load_abnormalities
    from ctglip.vocabulary.organs import load_organs

    torch.manual_seed(0)
    config = load_settings(PretrainConfig, "small/ctglip_cnn")
    organs, abnormalities = load_organs(), load_abnormalities()
    crops = CropSettings()
    inputs = ModelInputs(in_channels=crops.channels)
    trained = {
        name: [entry.name for entry in abnormalities.of_organ(organ)]
        for name in config.data.organs
        for organ in (name,)
    }
    return Release(
        model=DualEncoder(config.model, inputs).eval(),
        organs=organs.names,
        recipe=CtRecipe(spacing_mm=(3.0, 3.0, 3.0)).model_dump(mode="json"),
        crops=crops.model_dump(mode="json"),
        organ_dictionary=resource("organ_dictionary"),
        abnormality_dictionary=resource("abnormality_dictionary"),
        text_settings=TextEncoderSettings(),
        text_hash="random",
        prompts=_Hashed(inputs.text_dim),
        provenance={"trained": trained},
    )


class _Hashed(dict):  # type: ignore[type-arg]
    """A stand-in for the stored prompts: a random vector for every text."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def __contains__(self, text: object) -> bool:
        return True

    def __missing__(self, text: str) -> torch.Tensor:
        generator = torch.Generator().manual_seed(abs(hash(text)) % 2**31)
        self[text] = torch.randn(self.dim, generator=generator)
        return self[text]


def simulated_scan(folder: Path) -> tuple[Path, Path]:
    """One simulated scan and its masks."""
    from ctglip.simulation.cohort import simulate_cohort

    simulate_cohort(folder, 1, 0)
    return next((folder / "images").iterdir()), next((folder / "masks").iterdir())


def ask(release: Release, scan: Path, masks: Path, counts: Sequence[int]) -> list[dict[str, Any]]:
    """Seconds for a scan with so many questions, and for encoding each question's organ anew."""
    pipeline = Pipeline(release)
    organs = pipeline.dictionaries.organs
    abnormalities = pipeline.dictionaries.abnormalities
    every = [f"{organs[o].display}: {abnormalities[a].display}" for o, a in pipeline.screened()]
    read, _ = read_scan(scan, pipeline.recipe)
    labels, _ = read_masks(masks, read, pipeline.recipe, organs)
    pipeline.query(read, every[:1], masks=labels)
    rows = []
    for count in counts:
        questions = [every[n % len(every)] for n in range(count)]
        start, cpu = time.perf_counter(), time.process_time()
        answers = pipeline.query(scan, questions, masks=masks)
        whole = time.perf_counter() - start
        rows.append(
            {
                "questions": count,
                "seconds": round(whole, 2),
                "cpu_seconds": round(time.process_time() - cpu, 2),
                "questions_per_second": round(count / whole, 1),
                "seconds_encoding_each_question": round(whole + (count - 1) * _once(pipeline, answers.standardized), 2),
            }
        )
    return rows


def _once(pipeline: Pipeline, standardized: Any) -> float:
    """Seconds to cut and encode one organ, as a script does that encodes anew for each question."""
    row = next(row for row in standardized.rows if row.organ in pipeline.trained)
    start = time.perf_counter()
    for _ in range(3):
        crops = pipeline.reader.prepare(InMemory(standardized), [row])
        pipeline.reader.encode(crops, pipeline.reader.split([row]))
    return (time.perf_counter() - start) / 3


def command(run: Path, scan: Path, masks: Path) -> dict[str, Any]:
    """Seconds and memory of ``ctglip query`` from its start to the page, with five questions and their heat maps."""
    asked = ("liver: fatty liver", "gallstones?", "cyst in the left kidney", "splenomegaly?", "aortic aneurysm?")
    with tempfile.TemporaryDirectory() as folder:
        questions = [part for question in asked for part in ("--ask", question)]
        told = ["query", run, scan, "--masks", masks, *questions, "--out", folder, "--maps", f"{folder}/maps"]
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "ctglip", *map(str, told)], check=True, capture_output=True)
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "peak_mb": after.ru_maxrss // 1024}


def evaluate(studies: int, pairs: int, draws: int) -> dict[str, Any]:
    """Seconds to judge so many studies x pairs from features in memory, intervals included."""
    rng = np.random.default_rng(0)
    organs = [f"organ{n}" for n in range(20)]
    instances = [
        OrganInstance(f"s{s}", OrganRow(organ, (0, 1, 0, 1, 0, 1), 1.0, 0.0, False))
        for s in range(studies)
        for organ in organs
    ]
    patients = np.repeat(np.arange(studies), len(organs))
    vectors = rng.normal(size=(len(instances), 128)).astype(np.float32)
    start, cpu = time.perf_counter(), time.process_time()
    axes = rng.normal(size=(pairs, 128)).astype(np.float32)
    labels, scores = {}, {}
    for n in range(pairs):
        rows = np.arange(n % len(organs), len(instances), len(organs))
        labels[organs[n % len(organs)], f"a{n}"] = PairLabels(rows, (rng.random(len(rows)) < 0.1).astype(np.int64))
        scores[organs[n % len(organs)], f"a{n}"] = vectors[rows] @ axes[n]
    weights = draw_patients(studies, draws, rng)
    evaluate_pairs(labels, scores, patients, weights, {})
    recognition(rng.integers(0, len(organs), len(instances)), instances, organs, {}, patients, weights)
    seconds = time.perf_counter() - start
    used = time.process_time() - cpu
    return {
        "studies": studies, "pairs": pairs, "draws": draws, "seconds": round(seconds, 1), "cpu_seconds": round(used, 1)
    }  # fmt: skip


def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer questions, studies and pairs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--scan", type=Path)
    parser.add_argument("--masks", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        given = options.scan and options.masks
        scan, masks = (options.scan, options.masks) if given else simulated_scan(Path(folder) / "cohort")
        release = load_release(options.run) if options.run else random_release()
        whole = command(options.run, scan, masks) if options.run else None
        asked = ask(release, scan, masks, QUESTIONS[:2] if options.quick else QUESTIONS)
    judged = evaluate(*((100, 30, 200) if options.quick else (1000, 300, 1000)))
    if options.json:
        figures = {"machine": platform.processor(), "asking": asked, "query": whole, "evaluating": judged}
        options.json.write_text(json.dumps(figures, indent=2))
    print(f"{'questions':>10} {'s a scan':>10} {'of CPU':>10} {'questions/s':>12} {'s, encoding for each':>22}")
    for row in asked:
        print("{:>10} {:>10} {:>10} {:>12} {:>22}".format(*row.values()))
    if whole:
        line = "ctglip query, five questions with heat maps: {seconds} s ({cpu_seconds} s of CPU), {peak_mb} MB"
        print("\n" + line.format(**whole))
    line = "evaluating {studies} studies x {pairs} pairs with {draws} draws: {seconds} s ({cpu_seconds} s of CPU)"
    print("\n" + line.format(**judged))


if __name__ == "__main__":
    main()
