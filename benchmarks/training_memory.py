"""Peak memory of a training step by batch size, whole and with GradCache; ``benchmarks/training.py`` shows the table.

python benchmarks/training_memory.py --rows 64 [--micro 16]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ctglip.config import find_config, load_settings
from ctglip.data.rendering import CropStack
from ctglip.data.samples import OrganBatch
from ctglip.models.dual_encoder import DualEncoder
from ctglip.models.region_readers import ModelInputs
from ctglip.objectives.base import StepContext
from ctglip.objectives.text_contrast import OrganText
from ctglip.training.checkpoint import TrainingState
from ctglip.training.distributed import DistributedContext
from ctglip.training.optim import build_optimizer
from ctglip.training.pretrain_config import PretrainConfig
from ctglip.training.step import Stepper


def memories(batches: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Memory of a step beyond model and batch, by batch size, each in a process of its own."""
    found: dict[str, dict[str, Any]] = {}
    for rows in batches:
        for name, micro in (("whole", []), ("GradCache, 16 at a time", ["--micro", "16"])):
            command = [sys.executable, __file__, "--rows", str(rows), *micro]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found.setdefault(name, {})[str(rows)] = json.loads(done.stdout)
    return found


def memory(rows: int, micro_batch: int | None) -> dict[str, float]:
    """Peak memory and seconds of two steps on a batch of so many crops, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = load_settings(PretrainConfig, find_config("small/ctglip_cnn"))
    crops, texts, negatives, organs = config.data.crops, 384, config.data.negatives, 64

    class Bank:
        dim = texts
        encoder = type("Frozen", (), {"trainable": False})()

        def vectors(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.randn(*ids.shape, texts, generator=torch.Generator().manual_seed(0))

    model = DualEncoder(config.model, ModelInputs(in_channels=crops.channels, text_dim=texts))
    owner = torch.arange(organs).repeat_interleave(4)
    objective = OrganText(model, Bank(), torch.arange(len(owner)), owner)  # pyright: ignore[reportArgumentType]
    pool = torch.arange(rows * (negatives + 1))
    batch = OrganBatch(
        crops=CropStack(
            hu=torch.randint(-1000, 1000, (rows, *crops.grid), dtype=torch.int16),
            detail=torch.randint(-127, 128, (rows, len(crops.details), *crops.grid), dtype=torch.int8),
            covered=torch.randint(0, 2, (rows, *crops.grid), dtype=torch.uint8) * 255,
            median_hu=torch.zeros(rows),
            shift_hu=torch.zeros(rows),
            settings=crops,
        ),
        size=torch.randn(rows, 4),
        organ_id=torch.arange(rows) % organs,
        study_index=torch.arange(rows),
        text_id=torch.arange(rows),
        text_key=torch.arange(rows),
        negative_ids=pool[rows:].view(rows, negatives),
        pool_ids=pool,
        pool=torch.randn(len(pool), texts),
    )
    optimizer = build_optimizer(objective, config.optim)
    step = Stepper(TrainingState(objective, optimizer), DistributedContext(), micro_batch, config.optim)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the most it had is from now on
    before, clock = _status_mb("VmRSS"), time.perf_counter()
    for number in range(2):
        step(batch, StepContext(step=number), False, lambda _: ())
    return {"mb": _status_mb("VmHWM") - before, "seconds": (time.perf_counter() - clock) / 2}


def _status_mb(name: str) -> float:
    """A line of this process's memory (Linux): VmRSS is what it has now, VmHWM the most it had."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, required=True, help="crops in a batch")
    parser.add_argument("--micro", type=int, help="crops that are encoded at a time")
    asked = parser.parse_args()
    print(json.dumps(memory(asked.rows, asked.micro)))


if __name__ == "__main__":
    main()
