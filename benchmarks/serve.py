"""How long from a drop to the first answer, how quickly do many get answers, and does memory stay flat?

``python benchmarks/serve.py [--quick] [--json FILE] [--run RUN] [--scan SCAN --masks MASKS]``. Without a run a small
model of random weights reads a simulated scan of 512 x 512 x 300 voxels (``--quick``: 128 x 128 x 60): times do not
depend on what was learned. The server runs as a user starts it; ``ctglip query`` is timed beside it, both with their
models loaded (its time to start and load is told apart).
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from benchmarks.asking import random_release
from ctglip.api import load_model
from ctglip.inference.pipeline import Pipeline
from ctglip.models.release import Release, save_release
from ctglip.serve.client import ServeClient
from ctglip.vocabulary.prompts import normal_prompts

QUESTIONS = ("liver: fatty liver", "spleen", "gallstones?", "left kidney: cyst", "any abnormality?")


def write_scan(folder: Path, shape: tuple[int, int, int], seed: int = 0) -> tuple[Path, Path]:
    """A body with a liver, a spleen and two kidneys, and its masks (TotalSegmentator v2's numbers)."""
    rng = np.random.default_rng(seed)
    hu = np.full(shape, -1000, np.int16)
    labels = np.zeros(shape, np.uint8)
    for label, value, low, high in (
        (0, 20, (0.1, 0.2, 0.0), (0.9, 0.8, 1.0)), (5, 60, (0.5, 0.3, 0.4), (0.8, 0.7, 0.7)),
        (1, 50, (0.15, 0.3, 0.5), (0.3, 0.5, 0.65)), (2, 35, (0.55, 0.3, 0.2), (0.65, 0.4, 0.35)),
        (3, 35, (0.3, 0.3, 0.2), (0.4, 0.4, 0.35)),
    ):  # fmt: skip
        box = tuple(slice(int(a * n), int(b * n)) for a, b, n in zip(low, high, shape, strict=True))
        hu[box] = value
        labels[box] = label
    hu += rng.normal(0, 10, shape).astype(np.int16)
    affine = np.diag([0.75, 0.75, 1.0, 1.0]) if shape[0] == 512 else np.diag([3.0, 3.0, 5.0, 1.0])
    paths = folder / f"scan{seed}.nii.gz", folder / "masks.nii.gz"
    for path, values in zip(paths, (hu, labels), strict=True):
        nib.save(nib.Nifti1Image(values, affine), path)
    return paths


def random_model() -> Release:
    """A small model of random weights, with all the prompts that its questions need."""
    release = random_release()
    pipeline = Pipeline(release)
    pipeline.scorer.sides(pipeline.screened())
    for organ in pipeline.dictionaries.organs.organs.values():
        release.embed(normal_prompts(organ, pipeline.scorer.templates))
    release.prompts = dict(release.prompts)
    return release


@contextmanager
def server(run: Path, folder: Path) -> Iterator[tuple[ServeClient, str, int]]:
    """A server as a user starts it: a client, its address, its process."""
    command = [sys.executable, "-m", "ctglip", "serve", str(run), "--port", "0", "--folder", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        yield ServeClient(address), address, process.pid
    finally:
        process.terminate()
        process.wait(timeout=30)


def children(process: int) -> list[int]:
    """Processes that a process started."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(one) for task in tasks for one in task.read_text().split()]


def memory_mb(process: int) -> float:
    """What a process holds in memory."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def first_answer(client: ServeClient, scan: Path, masks: Path) -> dict[str, Any]:
    """Seconds from the drop to the first answer, and of each step."""
    start = time.perf_counter()
    found = client.upload(scan, masks)
    sent = time.perf_counter() - start
    job = client.wait(found)
    assert job["state"] == "ready", job["error"]
    client.ask(found, QUESTIONS[:1])
    seconds = time.perf_counter() - start
    steps = {step["name"]: step["seconds"] for step in job["steps"]}
    return {"scan": found, "seconds": seconds, "sent": sent, "steps": steps, "read": job["step_seconds"]}


def by_query(run: Path, scan: Path, masks: Path, out: Path) -> dict[str, float]:
    """Seconds of the command for one question, and of the same call in Python with the model loaded: all organs too."""
    command = [sys.executable, "-m", "ctglip", "query", str(run), str(scan), "--masks", str(masks)]
    start = time.perf_counter()
    subprocess.run([*command, "--ask", QUESTIONS[0], "--out", str(out)], check=True, capture_output=True)
    whole = time.perf_counter() - start
    model = load_model(run)
    start = time.perf_counter()
    model.query(scan, QUESTIONS[:1], masks)
    one = time.perf_counter() - start
    start = time.perf_counter()
    model.answer(model.encode_study(scan, masks=masks), QUESTIONS[:1])
    return {"command": whole, "one_organ": one, "all_organs": time.perf_counter() - start}


def crowd(address: str, scan: str, people: int, each: int) -> dict[str, float]:
    """Seconds of answers when several ask at once."""
    took: list[float] = []

    def ask(number: int) -> None:
        client = ServeClient(address)
        for turn in range(each):
            start = time.perf_counter()
            client.ask(scan, [QUESTIONS[(number + turn) % len(QUESTIONS)]])
            took.append(time.perf_counter() - start)
            time.sleep(1.0)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(people)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "people": people,
        "answers": len(took),
        "median": float(np.median(took)),
        "p95": float(np.quantile(took, 0.95)),
    }


def alone(client: ServeClient, scan: str) -> dict[str, float]:
    """Seconds of each question, asked by one."""
    found = {}
    for question in QUESTIONS:
        took = []
        for _ in range(5):
            start = time.perf_counter()
            client.ask(scan, [question])
            took.append(time.perf_counter() - start)
        found[question] = float(np.median(took))
    return found


def uploads(client: ServeClient, process: int, scan: Path, masks: Path, count: int) -> dict[str, Any]:
    """Memory of the server and of its worker over uploads in a row."""
    held: dict[str, list[float]] = {"server": [], "worker": []}
    for _ in range(count):
        found = client.upload(scan, masks)
        assert client.wait(found)["state"] == "ready"
        client.ask(found, QUESTIONS[:1])
        client.delete(found)
        held["server"].append(memory_mb(process))
        held["worker"].append(memory_mb(children(process)[0]))
    tenth = max(1, count // 5)
    return {
        name: {"after_first_mb": several[tenth - 1], "at_the_end_mb": several[-1]} for name, several in held.items()
    }


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures."""
    run = options.run
    if run is None:
        run = folder / "run"
        save_release(run / "model", random_model(), reference_text_encoder=True)
    small = write_scan(folder, (128, 128, 60), 1)
    large = small if options.quick else write_scan(folder, (512, 512, 300))
    if options.scan is not None:
        large = options.scan, options.masks
    with server(run, folder / "serve") as (client, address, process):
        warm = client.upload(*small)
        assert client.wait(warm)["state"] == "ready"
        drop = first_answer(client, *large)
        found: dict[str, Any] = {"drop": drop, "alone": alone(client, drop["scan"])}
        found["crowd"] = crowd(address, drop["scan"], 3 if options.quick else 20, 2 if options.quick else 10)
        found["uploads"] = uploads(client, process, *small, 3 if options.quick else 50)
    found["query"] = by_query(run, *large, folder / "out")
    return found | {"machine": platform.processor() or platform.machine()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--scan", type=Path)
    parser.add_argument("--masks", type=Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options, Path(folder))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
