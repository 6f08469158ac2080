"""``pretrain``: a store and a config become a run. The same function runs here, under torchrun, or in Ray workers."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ctglip.data.caption_tables import Taught
from ctglip.data.organs import studies_of
from ctglip.errors import ConfigError, CTGLIPError, ModelError
from ctglip.evaluation.familiarity import as_statistics, encode_anew, familiarity_studies, fit_familiarity
from ctglip.files import exclusive, read_json
from ctglip.inference.feature_cache import OrganFeatures, joined_features
from ctglip.models.card import started_from
from ctglip.models.device import resolve_device
from ctglip.models.encoders.base import Encoder
from ctglip.models.lora import merged
from ctglip.models.release import Release, save_release
from ctglip.objectives.registry import parts_of
from ctglip.store.tables import Store
from ctglip.training.allocator import keep_freed_memory
from ctglip.training.assembly import Assembly, assemble
from ctglip.training.callbacks import AUROC, LOSS, Callbacks
from ctglip.training.checkpoint import CHECKPOINTS, checkpoints
from ctglip.training.distributed import DistributedContext, joined, share_batch_statistics
from ctglip.training.pairs import write_pairs
from ctglip.training.pretrain_config import PretrainConfig
from ctglip.training.record import ENVIRONMENT, begin_run, check_run, fingerprint, steps_before
from ctglip.training.schedule import counted, learning_rate
from ctglip.training.sources import steps_of_epoch
from ctglip.training.trackers import check_trackers
from ctglip.training.tracking import read_metrics
from ctglip.training.trainer import Trainer
from ctglip.training.validation import Validation, build_validation, training_reader
from ctglip.types import Progress


def pretrain(
    store: Path,
    run: Path,
    config: PretrainConfig,
    resume: bool = False,
    launch: str = "local",
    workers: int = 1,
    callbacks: Callbacks | None = None,
) -> Path:
    """Train a model on a store's split ``train``.

    Under ``torchrun`` every process calls this with the same arguments: they share each batch, the first one writes.

    Args:
        store: the store.
        run: folder to write: config.resolved.yaml, environment.json, pairs.html, metrics.jsonl, tensorboard/,
            checkpoints/, model/.
        config: what to do.
        resume: go on from the newest sound checkpoint; a finished run is left as it is, unless it has more steps to do.
        launch: ``local``, or ``ray`` for workers of Ray Train around the same function.
        workers: of Ray Train; store and run must be on a disk that all of them see.
        callbacks: what to call meanwhile; of Ray workers' runs ``progress`` alone is called.

    Returns:
        The run's ``model/`` folder.

    Raises:
        ConfigError: an unknown ``launch``; the run exists and is not resumed, or is resumed with another config.
        StoreError: no store, an empty split, or the run belongs to other studies.
        ModelError: the text encoder cannot be loaded, or training went astray.
        OutputError: another process is writing to the run.
        MissingExtraError: a tracker is not installed.
        Stopped: ``callbacks.stop`` asked for it; a checkpoint was saved.
    """
    _check_launch(launch, workers, config)
    callbacks = callbacks or Callbacks()
    opened = Store.open(store)
    if config.needs_epochs:
        config = config.timed(steps_of_epoch(opened, config))
    device = resolve_device(config.loop.device)
    inputs = {"studies": fingerprint(opened)}
    if launch == "ray":
        check_run(run, config, inputs, resume)
        with exclusive(run):
            finished = _finished(run, config)
            _begin(run, config, inputs, resume, DistributedContext(0, workers, device), callbacks)
            if not finished:
                _with_ray(store, run, config, workers, callbacks.progress)
        return run / "model"
    with joined(device) as context, ExitStack() as stack:
        check_run(run, config, inputs, resume)
        finished = _finished(run, config)
        context.wait()  # every rank has looked before the first one writes
        if context.first:
            stack.enter_context(exclusive(run))
            _begin(run, config, inputs, resume, context, callbacks)
        if not finished:
            _train_run(opened, run, config, context, callbacks)
        context.wait()
    return run / "model"


def _check_launch(launch: str, workers: int, config: PretrainConfig) -> None:
    if launch not in ("local", "ray"):
        raise ConfigError(f"launch is {launch!r}, expected local or ray.")
    if launch == "local" and workers != 1:
        fix = f"On one machine: torchrun --standalone --nproc-per-node {workers} -m ctglip pretrain ..."
        raise ConfigError(f"{workers} workers are for --launch ray.", fix=fix)
    check_trackers(config.loop.trackers)


def failed_studies(run: Path) -> list[str]:
    """Studies that a finished run left out because they could not be read."""
    return read_json(run / "model" / "config.json")["provenance"]["failed_studies"]


def _finished(run: Path, config: PretrainConfig) -> bool:
    """The model of a run was written after as many steps as are asked for."""
    about = run / "model" / "config.json"
    return about.is_file() and read_json(about)["provenance"]["steps"] >= counted(config.loop.steps)


def _begin(
    run: Path,
    config: PretrainConfig,
    inputs: dict[str, str],
    resume: bool,
    context: DistributedContext,
    callbacks: Callbacks,
) -> None:
    """Say where a resumed run goes on, where that may not be what was meant, and write the run's records.

    Raises:
        ConfigError: code ``no_checkpoint``: a finished run is to be lengthened, and has none.
    """
    found, before = checkpoints(run / CHECKPOINTS), steps_before(run, config)
    if before is not None and not found and (run / "model").exists():
        raise ConfigError(
            f"{run} is finished, and its checkpoints are gone: it cannot be lengthened.",
            code="no_checkpoint",
            fix=f"Begin another run from its weights: --set initial={run}.",
        )
    if before is not None and found:
        callbacks.send(_lengthening(int(found[-1].name.removeprefix("step-")), before, config))
    elif resume and not found:
        what = "no checkpoint yet" if (run / ENVIRONMENT).exists() else "no run yet"
        callbacks.send(f"There is {what} in {run}: training begins at step 0.")
    begin_run(run, config, inputs, context.device, config.loop.threads, context.world)


def _lengthening(done: int, before: int, config: PretrainConfig) -> str:
    """What it means for the learning rate that a run is given more steps."""
    steps, optim = counted(config.loop.steps), config.optim
    was, now = learning_rate(max(done - 1, 0), before, optim), learning_rate(done, steps, optim)
    return (
        f"The run is lengthened from {before} to {steps} steps: from step {done + 1} on the learning rate is that "
        f"of the longer schedule ({was:.3g} at step {done}, {now:.3g} now). It is not the run that {steps} steps "
        "from the start would have given."
    )


def _train_run(
    store: Store, run: Path, config: PretrainConfig, context: DistributedContext, callbacks: Callbacks
) -> None:
    """Assemble, train from the newest checkpoint on, calibrate, release."""
    loop = config.loop
    if loop.threads:
        torch.set_num_threads(loop.threads)
    keep_freed_memory(context.device)
    preparing = [partial(callbacks.prepare, what) for what in ("Cutting crops", "Embedding texts")]
    parts = assemble(store, run, config, context.device, *preparing, notify=callbacks.send if context.first else None)
    parts.rank, parts.world = context.rank, context.world
    validation = None
    if parts.release.aligned:
        asked = (loop.validation_studies, context, loop.workers)
        validation = build_validation(store, parts.release, parts.dictionaries, config.data, *asked)
    share_batch_statistics(parts.objective, context)
    measure, score = validation.measure if validation else None, AUROC
    if parts.validation_sources:
        measure, score = partial(_measured, parts, measure, context), LOSS
    trainer = Trainer(parts.objective, config.optim, loop, run, seed=config.seed, context=context, callbacks=callbacks,
                      validate=measure, score=score, studies=parts.studies)  # fmt: skip
    trainer.resume()
    if context.first and loop.pairs and not (run / "pairs.html").exists():
        write_pairs(run / "pairs.html", parts, config, loop.pairs)
    if loop.compile:
        for module in parts.objective.modules():
            if isinstance(module, Encoder):
                module.compile()
    trainer.run(parts.batch)
    with trainer.released():
        parts.objective.finish()
        if validation:
            _calibrate(store, config, parts, validation, context)
        if context.first:
            _release(store, run, config, parts, trainer.steps, validation)
    context.wait()


def _measured(
    parts: Assembly, answers: Callable[[], dict[str, float]] | None, context: DistributedContext
) -> dict[str, float]:
    """The loss of the split val, and how well its organs are asked about."""
    return context.mean(parts.validation_loss(context.device)) | (answers() if answers else {})


def _calibrate(
    store: Store, config: PretrainConfig, parts: Assembly, validation: Validation, context: DistributedContext
) -> None:
    """Fit what turns scores into probabilities, and how far from training a scan may lie; every rank encodes a part."""
    release = parts.release
    release.calibration = validation.calibration(parts.learned_scale()).model_dump(mode="json")
    organs = list(dict.fromkeys(instance.organ for instance in validation.instances))
    if not (studies := familiarity_studies(store)):
        return
    some, reader = context.share(studies), training_reader(store, release, config.data)
    parts_of_train = context.shared(lambda: encode_anew(store, release, some, organs, config.data.threads, reader))
    train = joined_features(release.model, parts_of_train)
    val = OrganFeatures(tuple(validation.instances), validation.encode())
    fitted = fit_familiarity(train, val, reader.reading)
    release.familiarity = None if fitted is None else as_statistics(fitted)


def _release(
    store: Store, run: Path, config: PretrainConfig, parts: Assembly, steps: int, validation: Validation | None
) -> None:
    """Write ``model/``."""
    release = parts.release
    release.provenance = {
        "kind": config.kind,
        "seed": config.seed,
        "steps": steps,
        "objective": ", ".join(part.name for part in parts_of(config.objective).values()),
        "studies": fingerprint(store),
        "training_studies": len(studies_of(store, "train")),
        "started_from": started_from(config.model.encoder, config.text, config.initial),
        "trained": trained_pairs(parts.taught),
        "failed_studies": [failure.study_id for failure in parts.failures],
        "validation": _validated(release, validation),
    }
    if parts.encoder is not None:
        release.model.encoder = parts.encoder
    if release.model.settings.encoder.train.name == "lora":
        release.model = merged(release.model)
    release.model.eval()
    save_release(run / "model", release)


def _validated(release: Release, validation: Validation | None) -> str:
    """What the run was validated on, or why it was not."""
    if validation is not None:
        used, there = validation.studies
        return "split val" if used == there else f"{used} of the {there} studies of the split val"
    if not release.aligned:
        return "none: images and texts are not aligned"
    return "none: no organ in a split val"


def trained_pairs(taught: Sequence[Taught]) -> dict[str, list[str]]:
    """Organ to the abnormalities that training reports affirm in it."""
    found: dict[str, set[str]] = {}
    for one in taught:
        for organ, names in one.organs.items():
            found.setdefault(organ, set()).update(names)
    return {organ: sorted(names) for organ, names in sorted(found.items())}


def _ray_worker(job: dict[str, Any]) -> None:
    config = PretrainConfig.model_validate(job["config"])
    with joined(resolve_device(config.loop.device)) as context:
        _train_run(Store.open(Path(job["store"])), Path(job["run"]), config, context, Callbacks())


def _with_ray(store: Path, run: Path, config: PretrainConfig, workers: int, progress: Progress | None) -> None:
    """Ray Train workers around the same function; progress is read from the run's metrics."""
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    job = {"store": str(store.resolve()), "run": str(run.resolve()), "config": config.model_dump(mode="json")}
    started = not ray.is_initialized()
    if started:
        cpus = None if "RAY_ADDRESS" in os.environ else max(workers, os.cpu_count() or 1)
        ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, configure_logging=False)
    finished = threading.Event()
    reader = threading.Thread(
        target=_read_progress, args=(run, counted(config.loop.steps), finished, progress), daemon=True
    )
    reader.start()
    try:
        with tempfile.TemporaryDirectory(prefix="ctglip-ray-") as scratch:
            TorchTrainer(
                _ray_worker,
                train_loop_config=job,
                scaling_config=ScalingConfig(num_workers=workers, use_gpu=resolve_device(config.loop.device) == "cuda"),
                run_config=RunConfig(storage_path=scratch),
            ).fit()
    except Exception as error:
        raise _ray_error(error) from error
    finally:
        finished.set()
        reader.join()
        if started:
            ray.shutdown()


def _ray_error(error: Exception) -> CTGLIPError:
    """What a worker met, as it was where it is the user's fault."""
    for failure in getattr(error, "worker_failures", {}).values():
        for cause in (failure, getattr(failure, "cause", None), getattr(failure, "_base_exc", None)):
            if isinstance(cause, CTGLIPError):
                return cause
    return ModelError(f"The Ray worker failed: {error}", code="ray")


def _read_progress(run: Path, steps: int, finished: threading.Event, progress: Progress | None) -> None:
    while progress and not finished.wait(1.0):
        lines = read_metrics(run)
        if lines:
            progress(lines[-1]["step"], steps)
