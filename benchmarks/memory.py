"""GPU memory of pretraining by encoder and image size, worked out without a GPU: what autograd keeps of a forward pass.

python benchmarks/memory.py [--quick] [--json FILE] [--measure]

Every tensor that the forward pass saves for the backward pass is counted once (fake tensors: nothing is computed), in
float32; with autocast it is about the same, since normalisations keep float32 copies. Weights, gradients and AdamW's
two moments are 16 bytes a parameter. CUDA's context and workspaces (1 to 2 GB) come on top. ``--measure`` compares
with the peak memory of one real step on this CPU.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ctglip.config import find_config, load_settings
from ctglip.data.organs import CropDataSettings
from ctglip.models.encoders import build_encoder
from ctglip.models.encoders.base import Encoder
from ctglip.training.pretrain_config import PretrainConfig

CONFIGS = (
    "small/ctglip_cnn",
    "pretrain/ctglip_cnn",
    "pretrain/ctglip_vit",
    "pretrain/ctglip_pool",
    "pretrain/clip_global",
)
GRIDS = ((32, 32, 32), (64, 64, 64), (96, 96, 96))
GB = 1e9


class Saved:
    """Counts what autograd keeps, each storage once; parameters are not counted."""

    def __init__(self, known: set[int]) -> None:
        self.known, self.total = set(known), 0

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        key = tensor.untyped_storage()._cdata
        if key not in self.known:
            self.known.add(key)
            self.total += tensor.untyped_storage().nbytes()
        return tensor

    def hooks(self) -> Any:
        return torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor)


def activations(mode: FakeTensorMode, encoder: Encoder, channels: int, grid: tuple[int, ...]) -> tuple[int, int]:
    """Bytes kept for one image: as it is, and with ``checkpointing`` (inputs of stages, and the largest stage)."""
    state = {**dict(encoder.named_parameters()), **dict(encoder.named_buffers())}
    fakes = {name: mode.from_tensor(value) for name, value in state.items()}
    own = {value.untyped_storage()._cdata for value in fakes.values()}
    whole, stages = Saved(own), []

    def stage(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        before = whole.total
        out = module(x)
        stages.append((x.untyped_storage().nbytes(), whole.total - before))
        return out

    encoder.stage = stage  # pyright: ignore[reportAttributeAccessIssue]
    kept = []  # saved tensors must live, or their storage's address is used again
    whole.pack = lambda tensor, pack=whole.pack: kept.append(tensor) or pack(tensor)  # pyright: ignore
    with mode, whole.hooks():
        torch.func.functional_call(encoder, fakes, (torch.zeros(1, channels, *grid),))
    outside = whole.total - sum(inside for _, inside in stages)
    forgotten = outside + sum(x for x, _ in stages) + max((inside for _, inside in stages), default=0)
    return whole.total, min(whole.total, forgotten)


def rows(names: Sequence[str] = CONFIGS) -> list[dict[str, Any]]:
    found = []
    for name in names:
        config = load_settings(PretrainConfig, find_config(name), ())
        data, settings = config.data, config.model.encoder
        on_crops = isinstance(data, CropDataSettings)
        inputs = data.crops if on_crops else data.input
        for grid in GRIDS if on_crops else (inputs.grid,):
            channels = inputs.channels
            encoder = build_encoder(settings, channels)
            plain, checkpointed = activations(FakeTensorMode(), encoder, channels, grid)
            weights = sum(p.numel() for p in encoder.parameters())
            batch = data.sampling.batch if on_crops else data.batch
            micro = config.loop.micro_batch or batch
            each = checkpointed if settings.checkpointing else plain
            found.append(
                {
                    "config": name, "grid": "x".join(map(str, grid)), "batch": batch, "micro_batch": micro,
                    "parameters_m": weights / 1e6, "image_mb": plain / 1e6, "checkpointed_mb": checkpointed / 1e6,
                    "state_gb": 16 * weights / GB, "at_once_gb": (micro * each + 16 * weights) / GB,
                }
            )  # fmt: skip
    return found


def measured(name: str, side: int, batch: int) -> float:
    """Peak memory in GB that a forward and backward pass adds to this process (run in a process of its own)."""
    config = load_settings(PretrainConfig, find_config(name), ())
    channels = config.data.crops.channels
    encoder = build_encoder(config.model.encoder, channels)
    encoder(torch.zeros(1, channels, *[side] * 3)).pooled.sum().backward()
    image = torch.zeros(batch, channels, *[side] * 3)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    encoder(image).pooled.sum().backward()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / GB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the smallest config alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--measure", action="store_true", help="compare with this CPU")
    parser.add_argument("--one", nargs=3, metavar=("CONFIG", "SIDE", "BATCH"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(measured(asked.one[0], int(asked.one[1]), int(asked.one[2])))
        return
    table = rows(CONFIGS[:1] if asked.quick else CONFIGS)
    if asked.measure:
        for row in table:
            if row["grid"] in ("32x32x32", "64x64x64") and row["config"] != "pretrain/ctglip_vit":
                batch = 64 if row["grid"] == "32x32x32" else 8
                command = [sys.executable, __file__, "--one", row["config"], row["grid"].split("x")[0], str(batch)]
                said = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
                row |= {"cpu_batch": batch, "counted_gb": batch * row["image_mb"] / 1e3, "measured_gb": said}
    if asked.json:
        asked.json.write_text(json.dumps(table, indent=2))
    names = list(dict.fromkeys(name for row in table for name in row))
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names))
    for row in table:
        cells = [row.get(name, "") for name in names]
        print("| " + " | ".join(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells) + " |")


if __name__ == "__main__":
    main()
