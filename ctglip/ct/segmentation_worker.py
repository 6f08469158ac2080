"""The process in which TotalSegmentator runs: ``python -m ctglip.ct.segmentation_worker``.

It reads one JSON request a line from stdin and answers with one JSON line on stdout; whatever TotalSegmentator prints
goes to stderr. It ends when stdin closes or when its parent is gone. Its parent's limit on memory is not its own (CUDA
and nnU-Net reserve more than they use); when the machine's memory runs out it is the first to be ended.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import resource
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Serve requests until stdin closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    folder = Path(os.environ["CTGLIP_WORKER_FOLDER"])
    threading.Thread(target=_end_with_parent, args=(os.getppid(), folder), daemon=True).start()
    _memory_without_limit()
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line), folder)) + "\n")
        answers.flush()


def _end_with_parent(parent: int, folder: Path) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _memory_without_limit() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    with contextlib.suppress(OSError):  # Linux alone has it
        Path("/proc/self/oom_score_adj").write_text("1000")


def answer(request: dict[str, Any], folder: Path) -> dict[str, str]:
    """Segment ``scan.npy`` of the folder into ``labels.npy``; every way in which that fails becomes an answer."""
    import numpy as np

    try:
        labels = _segment(np.load(folder / "scan.npy"), request)
    except SystemExit as stop:
        message = f"TotalSegmentator stopped ({stop.code}): it asks for a licence or an input it can use."
        return _fault("segmentation_licence", message, "Set its licence number with totalseg_set_license.")
    except MemoryError:
        return _memory("MemoryError")
    except Exception as problem:  # noqa: BLE001  the answer says it
        if type(problem).__module__.split(".")[0] in ("requests", "urllib3"):
            message = f"TotalSegmentator's weights could not be downloaded ({type(problem).__name__}): no network?"
            fix = "Get them elsewhere with totalseg_download_weights, and name their folder in TOTALSEG_WEIGHTS_PATH."
            return _fault("weights_missing", message, fix)
        text = " ".join(str(problem).split())[:300]
        if "out of memory" in text.lower() or "not enough memory" in text.lower():
            return _memory(type(problem).__name__)
        return _fault("segmentation_failed", f"TotalSegmentator failed: {type(problem).__name__}: {text}.", "")
    np.save(folder / "labels.npy", labels)
    return _fault("", "", "")


def _fault(code: str, message: str, fix: str) -> dict[str, str]:
    return {"error": code, "message": message, "fix": fix}


def _memory(kind: str) -> dict[str, str]:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    fix = "Choose a smaller mode or a machine with more memory."
    return _fault("segmentation_memory", f"Memory did not suffice for TotalSegmentator ({kind}).", fix)


def _segment(hu: Any, request: dict[str, Any]) -> Any:
    import nibabel as nib
    import numpy as np
    import torch

    api = _prepared(request["allow_download"], request["threads"])
    device = request["device"]
    if device == "auto":
        device = "gpu" if torch.cuda.is_available() else "cpu"
    image = nib.Nifti1Image(np.ascontiguousarray(hu), np.asarray(request["affine"]))
    result = api.totalsegmentator(
        image,
        None,
        ml=True,
        fast=request["mode"] == "fast",
        fastest=request["mode"] == "fastest",
        roi_subset=request["roi_subset"] or None,
        device=device,
        quiet=True,
        nr_thr_saving=1,
    )
    return np.asarray(result.dataobj).astype(np.uint8)


@functools.cache
def _prepared(allow_download: bool, threads: int | None) -> Any:
    """TotalSegmentator's interface, with a model that stays loaded, without child processes and without a network."""
    import multiprocessing

    from totalsegmentator import python_api

    python_api.setup_nnunet()  # nnU-Net reads its folders when it is imported
    import totalsegmentator.nnunet  # noqa: F401  brings its own changes to nnU-Net, so it comes before ours
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    threads = threads or int(os.environ.get("OMP_NUM_THREADS", "0")) or None
    if threads is not None:
        multiprocessing.cpu_count = lambda: threads
    if not allow_download:
        python_api.download_pretrained_weights = lambda task_id: None  # noqa: ARG005  they were looked for before
    python_api.send_usage_stats = lambda config, params: None  # noqa: ARG005
    predictor: Any = nnUNetPredictor
    load = predictor.initialize_from_trained_model_folder
    loaded: dict[tuple[str, str, str], dict[str, Any]] = {}

    def keep(self: Any, folder: str, use_folds: Any, checkpoint_name: str = "checkpoint_final.pth") -> None:
        key = (str(folder), str(use_folds), checkpoint_name)
        if key not in loaded:
            before = dict(vars(self))
            load(self, folder, use_folds, checkpoint_name)
            loaded[key] = {name: value for name, value in vars(self).items() if before.get(name) is not value}
        vars(self).update(loaded[key])

    def run_here(self: Any, source: str, target: str, **options: Any) -> Any:
        channels: dict[str, list[str]] = {}
        for file in sorted(Path(source).glob("*_[0-9][0-9][0-9][0-9].nii.gz")):
            channels.setdefault(file.name[: -len("_0000.nii.gz")], []).append(str(file))
        names = [str(Path(target) / name) for name in channels]
        supported = {key: options[key] for key in ("save_probabilities", "overwrite") if key in options}
        return self.predict_from_files_sequential(list(channels.values()), names, **supported)

    predictor.initialize_from_trained_model_folder = keep
    predictor.predict_from_files = run_here
    return python_api


if __name__ == "__main__":
    main()
