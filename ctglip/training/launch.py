"""``pretrain``: a store and a config become a run. The same function runs here or inside a Ray worker."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ctglip.data.sayings import OrganSayings
from ctglip.errors import ConfigError, ModelError
from ctglip.models.release import save_release
from ctglip.store.tables import Store
from ctglip.training.assembly import assemble
from ctglip.training.checkpoint import load_checkpoint
from ctglip.training.loop import train
from ctglip.training.optim import build_optimizer
from ctglip.training.recipe import PretrainConfig
from ctglip.training.record import fingerprint, open_run
from ctglip.training.tracking import read_metrics
from ctglip.training.validation import build_validation

Progress = Callable[[int, int], None]


def pretrain(
    store: Path,
    run: Path,
    config: PretrainConfig,
    resume: bool = False,
    launch: str = "local",
    progress: Progress | None = None,
) -> Path:
    """Train an organ-text model on a store's split ``train``.

    Args:
        store: the store.
        run: folder to write: config.resolved.yaml, environment.json, metrics.jsonl, checkpoints/, text_bank/, model/.
        config: what to do.
        resume: go on from the newest checkpoint of the run; a finished run is left as it is.
        launch: ``local``, or ``ray`` for one worker of Ray Train around the same function.
        progress: called with (steps done, steps).

    Returns:
        The run's ``model/`` folder.

    Raises:
        ConfigError: an unknown ``launch``; the run exists and is not resumed, or is resumed with another config.
        StoreError: no store, an empty split, or the run belongs to other studies.
        ModelError: the text encoder cannot be loaded, or training went astray.
    """
    if launch not in ("local", "ray"):
        raise ConfigError(f"launch is {launch!r}, expected local or ray.")
    opened = Store.open(store)
    device = resolve_device(config.loop.device)
    open_run(run, config, opened, resume, device, config.loop.threads or torch.get_num_threads())
    if not (run / "model" / "config.json").is_file():
        if launch == "ray":
            _with_ray(store, run, config, progress)
        else:
            _train_run(opened, run, config, device, progress)
    return run / "model"


def resolve_device(wanted: str) -> str:
    """``auto`` becomes ``cuda`` where there is a GPU, else ``cpu``.

    Raises:
        ConfigError: ``cuda`` without a GPU.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("The config asks for cuda, but torch sees no GPU.", fix="Set device to auto or cpu.")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def _train_run(store: Store, run: Path, config: PretrainConfig, device: str, progress: Progress | None) -> None:
    """Assemble, train from the newest checkpoint on, calibrate, release."""
    if config.loop.threads:
        torch.set_num_threads(config.loop.threads)
    parts = assemble(store, run, config, device)
    validation = build_validation(store, parts.release, parts.dictionaries, config.data)
    optimizer = build_optimizer(parts.objective, config.optim)
    start = load_checkpoint(run / "checkpoints", parts.objective, optimizer)
    measure = validation.measure if validation else None
    train(parts.objective, optimizer, parts.batch, start, run, config.loop, config.optim, measure, progress)
    scale = float(parts.objective.diagnosis_scale().detach())
    release = parts.release
    if validation:
        release.calibration = validation.calibration(scale).model_dump(mode="json")
    release.provenance = {
        "kind": config.kind,
        "seed": config.seed,
        "steps": config.loop.steps,
        "studies": fingerprint(store),
        "trained": trained_pairs(parts.dataset.sayings),
        "failed_studies": [failure.study_id for failure in parts.dataset.cache.failures],
    }
    release.model.eval()
    save_release(run / "model", release)


def trained_pairs(sayings: Sequence[OrganSayings]) -> dict[str, list[str]]:
    """Organ to the abnormalities that training reports affirm in it."""
    found: dict[str, set[str]] = {}
    for said in sayings:
        found.setdefault(said.organ, set()).update(said.affirmed)
    return {organ: sorted(names) for organ, names in sorted(found.items())}


def _ray_worker(job: dict[str, Any]) -> None:
    config = PretrainConfig.model_validate(job["config"])
    _train_run(
        Store.open(Path(job["store"])), Path(job["run"]), config, resolve_device(config.loop.device), progress=None
    )


def _with_ray(store: Path, run: Path, config: PretrainConfig, progress: Progress | None) -> None:
    """One Ray Train worker around the same function; progress is read from the run's metrics."""
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    job = {"store": str(store.resolve()), "run": str(run.resolve()), "config": config.model_dump(mode="json")}
    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    finished = threading.Event()
    watcher = threading.Thread(target=_watch, args=(run, config.loop.steps, finished, progress), daemon=True)
    watcher.start()
    try:
        with tempfile.TemporaryDirectory(prefix="ctglip-ray-") as scratch:
            TorchTrainer(
                _ray_worker,
                train_loop_config=job,
                scaling_config=ScalingConfig(num_workers=1, use_gpu=torch.cuda.is_available()),
                run_config=RunConfig(storage_path=scratch),
            ).fit()
    except Exception as error:
        raise ModelError(f"The Ray worker failed: {error}", code="ray") from error
    finally:
        finished.set()
        watcher.join()
        if started:
            ray.shutdown()


def _watch(run: Path, steps: int, finished: threading.Event, progress: Progress | None) -> None:
    while progress and not finished.wait(1.0):
        lines = read_metrics(run)
        if lines:
            progress(lines[-1]["step"], steps)
