"""Contrastive loss and organ pooling: time and peak memory beside plain forms, on this machine's CPU.

    python benchmarks/losses.py [--quick] [--json FILE] [--rows N]

Every figure comes from a process of its own. ``open_clip`` is measured where it is installed (extra ``[bench]``).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ctglip.losses.contrastive import soft_contrastive
from ctglip.models.pooling import pool_labels

CHUNK = 1024
NEGATIVES = 64
Step = Callable[[], Tensor]


def pairs(rows: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    image, text = (F.normalize(torch.randn(rows, dim), dim=1).requires_grad_() for _ in range(2))
    return image, text, torch.tensor(14.3, requires_grad=True)


def ours(rows: int, dim: int, negatives: int = 0, chunk: int | None = CHUNK) -> Step:
    image, text, scale = pairs(rows, dim)
    extra = F.normalize(torch.randn(4096, dim), dim=1)
    index = torch.randint(0, len(extra), (rows, negatives)) if negatives else None
    return lambda: soft_contrastive(image, text, scale, chunk=chunk, extra=extra, extra_index=index)


def open_clip_loss(rows: int, dim: int) -> Step:
    from open_clip.loss import ClipLoss  # pyright: ignore[reportMissingImports]

    image, text, scale = pairs(rows, dim)
    loss = ClipLoss()
    return lambda: loss(image, text, scale)


def maps(quick: bool) -> tuple[Tensor, Tensor, int]:
    torch.manual_seed(0)
    shape, channels = ((24, 24, 16), 64) if quick else ((48, 48, 32), 256)
    coarse = torch.randint(0, 65, (4, 1, 6, 6, 4)).float()
    labels = F.interpolate(coarse, size=shape, mode="nearest").long()[:, 0]
    return torch.randn(4, channels, *shape, requires_grad=True), labels, 65


def pooled(quick: bool) -> Step:
    features, labels, count = maps(quick)
    member = torch.eye(count)[1:].repeat(len(features), 1)
    study = torch.arange(len(features)).repeat_interleave(count - 1)
    return lambda: pool_labels(features, labels, member, study).square().sum()


def pooled_einsum(quick: bool) -> Step:
    features, labels, count = maps(quick)

    def step() -> Tensor:
        masks = F.one_hot(labels.flatten(1), count)[..., 1:].to(features.dtype)
        sums = torch.einsum("bnl,bcn->blc", masks, features.flatten(2))
        return (sums / masks.sum(1)[..., None].clamp(min=1)).square().sum()

    return step


def pooled_loop(quick: bool) -> Step:
    features, labels, count = maps(quick)

    def step() -> Tensor:
        found = []
        for volume, marks in zip(features, labels, strict=True):
            for organ in range(1, count):
                mask = (marks == organ).to(volume.dtype)
                found.append((volume * mask).sum((1, 2, 3)) / mask.sum().clamp(min=1))
        return torch.stack(found).square().sum()

    return step


def contenders(quick: bool, rows: int | None) -> dict[str, Callable[[], Step]]:
    rows, dim = rows or (4096 if quick else 32768), 128 if quick else 512
    loss = f"contrast {rows} x {dim}"
    found: dict[str, Callable[[], Step]] = {
        f"{loss}: ours, chunks of {CHUNK}": lambda: ours(rows, dim),
        f"{loss}: ours, + {NEGATIVES} dictionary negatives a row": lambda: ours(rows, dim, NEGATIVES),
        f"{loss}: ours, plain": lambda: ours(rows, dim, chunk=None),
    }
    if importlib.util.find_spec("open_clip"):
        found[f"{loss}: open_clip ClipLoss"] = lambda: open_clip_loss(rows, dim)
    size = "4 x 24x24x16x64" if quick else "4 x 48x48x32x256"
    found[f"pooling 64 organs of {size}: ours"] = lambda: pooled(quick)
    found[f"pooling 64 organs of {size}: one-hot einsum"] = lambda: pooled_einsum(quick)
    found[f"pooling 64 organs of {size}: loop over organs"] = lambda: pooled_loop(quick)
    return found


def measure(build: Callable[[], Step]) -> dict[str, float]:
    """The best of two forward and backward passes (seconds, and seconds of CPU, which a busy machine changes less), and
    the memory that they took at most."""
    step = build()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times, work = [], []
    for _ in range(2):
        start, cpu = time.perf_counter(), time.process_time()
        step().backward()
        times.append(time.perf_counter() - start)
        work.append(time.process_time() - cpu)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": min(times), "cpu_seconds": min(work), "peak_mb": (after - before) / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--rows", type=int, help="rows of the contrast (plain forms need about 20 rows^2 bytes)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(contenders(asked.quick, asked.rows)[asked.one])))
        return
    results = {}
    for name in contenders(asked.quick, asked.rows):
        size = ["--quick"] if asked.quick else []
        size += ["--rows", str(asked.rows)] if asked.rows else []
        command = [sys.executable, __file__, "--one", name, *size]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        results[name] = (
            json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"error": done.stderr[-200:]}
        )
        found = results[name]
        if "error" in found:
            print(f"{name:70s} {found['error']}", flush=True)
            continue
        times = f"{found['seconds']:8.2f} s ({found['cpu_seconds']:.2f} s of CPU)"
        print(f"{name:70s} {times} {found['peak_mb']:9.0f} MB", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps({"threads": torch.get_num_threads(), "results": results}, indent=2))


if __name__ == "__main__":
    main()
