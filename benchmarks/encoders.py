"""Training steps per second of each encoder over organ crops, and how little happens outside of it.

python benchmarks/encoders.py [--quick] [--json FILE] [--device cuda]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ctglip.data.rendering import RenderedCrops
from ctglip.data.samples import OrganBatch
from ctglip.models.dual_encoder import DualEncoder, DualEncoderSettings
from ctglip.models.encoders.cnn import CNNSettings
from ctglip.models.encoders.nnunet import NNUNetSettings
from ctglip.models.encoders.resnet import ResNetSettings
from ctglip.models.encoders.swin import SwinSettings
from ctglip.models.encoders.vit import ViTSettings
from ctglip.models.region_readers import CropReaderSettings, ModelInputs
from ctglip.objectives.base import total
from ctglip.objectives.text_contrast import OrganText

TEXT_DIM, NEGATIVES, ORGANS = 384, 8, 64


class Texts:
    """A text bank of random vectors."""

    dim = TEXT_DIM
    encoder = type("Frozen", (), {"trainable": False})()

    def vectors(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.randn(*ids.shape, TEXT_DIM, generator=torch.Generator().manual_seed(0))


def encoders(quick: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "cnn (default)": CNNSettings(),
        "cnn, a block at each stage": CNNSettings(blocks=(1, 1, 1, 1)),
        "resnet 18, group norm": ResNetSettings(layers=(2, 2, 2, 2)),
        "vit 192 x 6, patch 8": ViTSettings(image_size=32 if quick else 64),
        "swin 24": SwinSettings(),
        "nnunet residual, 4 stages": NNUNetSettings(widths=(32, 64, 128, 256), blocks=(1, 3, 4, 6)),
    }
    return dict(list(found.items())[:2]) if quick else found


def batch(rows: int, side: int, device: str) -> OrganBatch:
    torch.manual_seed(0)
    pool = torch.arange(rows * (NEGATIVES + 1))
    return OrganBatch(
        crops=RenderedCrops(torch.randn(rows, 4, *[side] * 3), (torch.rand(rows, 1, *[side] * 3) > 0.5).float()),
        size=torch.randn(rows, 4),
        organ_id=torch.arange(rows) % ORGANS,
        study_index=torch.arange(rows) // 6,
        text_id=torch.arange(rows),
        text_key=torch.arange(rows) % 20,
        negative_ids=pool[rows:].view(rows, NEGATIVES),
        pool_ids=pool,
        pool=torch.randn(len(pool), TEXT_DIM),
    ).to(device)


def now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(encoder: Any, rows: int, side: int, autocast: bool, device: str, seconds: float) -> dict[str, float]:
    settings = DualEncoderSettings(encoder=encoder, regions=CropReaderSettings())
    model = DualEncoder(settings, ModelInputs(text_dim=TEXT_DIM))
    owner = torch.arange(ORGANS).repeat_interleave(4)
    objective = OrganText(model, Texts(), torch.arange(len(owner)), owner).to(device)  # pyright: ignore[reportArgumentType]
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-4)
    data = batch(rows, side, device)

    def timed(work: Callable[[], Any]) -> Any:
        start = now(device)
        out = work()
        return out, now(device) - start

    def step() -> tuple[float, float]:
        """Seconds of the whole step and of the encoder in it."""
        begin = now(device)
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            features, forward = timed(lambda: objective.encode(data))
            organ = features["organ"]
            features = {**features, "organ": organ.detach().requires_grad_()}
            losses, _ = objective.compute(features)
        optimizer.zero_grad()
        total(losses).backward()
        _, backward = timed(lambda: organ.backward(features["organ"].grad))
        optimizer.step()
        return now(device) - begin, forward + backward

    step()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    spent = inside = 0.0
    steps = 0
    while spent < seconds or steps < 2:
        whole, part = step()
        spent, inside, steps = spent + whole, inside + part, steps + 1
    found = {"steps_per_second": steps / spent, "crops_per_second": steps * rows / spent, "outside": 1 - inside / spent}
    if device == "cuda":
        found["peak_gb"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two encoders, 32^3 crops, half a second each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    asked = parser.parse_args()
    side, rows = (32, 8) if asked.quick else (64, 8)
    results: dict[str, dict[str, float]] = {}
    print(f"{rows} crops of {side}^3 x 4 channels, {asked.device}, {torch.get_num_threads()} threads")
    print(f"{'encoder':32s} {'':5s} {'steps/s':>8s} {'crops/s':>8s} {'outside the encoder':>20s}")
    for name, encoder in encoders(asked.quick).items():
        for autocast in (False, True):
            kind = "bf16" if autocast else "fp32"
            found = measure(encoder, rows, side, autocast, asked.device, 0.5 if asked.quick else 5.0)
            results[f"{name}, {kind}"] = found
            line = f"{found['steps_per_second']:8.2f} {found['crops_per_second']:8.1f} {found['outside']:19.1%}"
            print(f"{name:32s} {kind:5s} {line}", flush=True)
    if asked.json:
        about = {"side": side, "rows": rows, "device": asked.device, "threads": torch.get_num_threads()}
        asked.json.write_text(json.dumps({**about, "results": results}, indent=2))


if __name__ == "__main__":
    main()
