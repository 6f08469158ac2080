"""TotalSegmentator: organ masks for scans that come without.

It runs in a process of its own that keeps its model loaded from scan to scan, so that a time-out, a lack of memory, a
licence exit or a crash of it ends as an error here and nowhere else. Nothing leaves the machine: usage statistics are
off, and weights are fetched only when the settings allow it.

The process is a plain one behind pipes. ``ProcessPoolExecutor`` cannot end a worker that hangs and does not say how one
died (by signal 9: out of memory, and the smaller model is tried); its fresh processes import the caller's main module
again, which runs a script or notebook without a guard twice, and its forked ones inherit threads and CUDA. A Ray actor
would make Ray a need of every question that is asked of a scan without masks.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field

from ctglip.config import Settings
from ctglip.errors import MaskError
from ctglip.parallel import python_environment, python_module
from ctglip.types import LabelMap, QualityCheck, Scan
from ctglip.vocabulary.organs import OrganDictionary, totalsegmentator_classes

Mode = Literal["full", "fast", "fastest"]
_MODELS: dict[Mode, tuple[int, ...]] = {"full": (291, 292, 293, 294, 295), "fast": (297,), "fastest": (298,)}
_CROP_MODEL = 298
_TASKS: dict[Mode, str] = {"full": "total", "fast": "total_fast", "fastest": "total_fast"}
"""What the weights of a mode are called where they are downloaded."""

_SMALLER: dict[Mode, Mode] = {"full": "fast", "fast": "fastest"}


class SegmentationSettings(Settings):
    """How TotalSegmentator is run.

    Attributes:
        mode: ``fast`` (3 mm model), ``fastest`` (6 mm model) or ``full`` (1.5 mm models).
        roi_subset: only these classes (TotalSegmentator v2 names); empty for all.
        device: ``cpu``, ``gpu``, ``gpu:1``, ... or ``auto``.
        threads: CPU threads; None for as many as OMP_NUM_THREADS says (Ray sets it), else for all.
        timeout_s: longest time for one scan, the first one's loading included.
        memory_gb: what it is expected to need: Ray places no more of them on a machine than fit. No limit is set: when
            memory runs out the system ends it, and not what started it.
        smaller_on_memory: try the next smaller mode when memory does not suffice.
        allow_download: fetch missing weights from the network.
    """

    mode: Mode = "fast"
    roi_subset: tuple[str, ...] = ()
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|gpu(:\d+)?)$")
    threads: int | None = Field(default=None, ge=1)
    timeout_s: float = Field(default=1800, gt=0)
    memory_gb: float = Field(default=8.0, gt=0)
    smaller_on_memory: bool = True
    allow_download: bool = False


WHERE_IT_RUNS = {"device", "threads", "timeout_s", "memory_gb", "allow_download"}
"""Settings that do not change what comes out."""


def weights_folder() -> Path:
    """Where TotalSegmentator looks for its weights."""
    if folder := os.environ.get("TOTALSEG_WEIGHTS_PATH"):
        return Path(folder)
    return _home() / "nnunet" / "results"


def _home() -> Path:
    folder = os.environ.get("TOTALSEG_HOME_DIR")
    return Path(folder) if folder else Path.home() / ".totalsegmentator"


def missing_weights(mode: Mode, *, with_crop: bool = False) -> tuple[str, ...]:
    """Names of the weight folders that a mode needs (``with_crop``: for a subset of classes) and that are not there."""
    from totalsegmentator.map_tasks_config import TASK_ID_WEIGHTS_CONFIGS

    needed = dict.fromkeys((*_MODELS[mode], *((_CROP_MODEL,) if with_crop else ())))
    names = [str(TASK_ID_WEIGHTS_CONFIGS[model]["foldername"]) for model in needed]
    return tuple(name for name in names if not (weights_folder() / name).is_dir())


def segment(scan: Scan, settings: SegmentationSettings, organs: OrganDictionary) -> LabelMap:
    """Organ masks of one scan; many scans are faster with one ``Segmenter``.

    Raises:
        MaskError: as ``Segmenter.run``.
    """
    with Segmenter(settings, organs) as segmenter:
        return segmenter.run(scan)[0]


class Segmenter:
    """TotalSegmentator's task ``total`` with its model loaded once.

    Use it as a context manager, or call ``close``. The process starts with the first scan and starts anew after a
    time-out or a crash.

    Args:
        settings: mode, classes, device, time-out.
        organs: names to label numbers.

    Raises:
        MaskError: ``unknown_class``; ``weights_missing`` with where to put them.
    """

    def __init__(self, settings: SegmentationSettings, organs: OrganDictionary) -> None:
        unknown = sorted(set(settings.roi_subset) - set(totalsegmentator_classes().values()))
        if unknown:
            raise MaskError(
                f"TotalSegmentator has no class {', '.join(unknown)}.",
                code="unknown_class",
                fix="Use the class names of its task 'total'.",
            )
        self.settings = settings
        self._numbering = _numbering(organs)
        self._worker: _Worker | None = None
        self._check_weights(settings.mode)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def run(self, scan: Scan) -> tuple[LabelMap, tuple[QualityCheck, ...]]:
        """Organ masks of one scan, on its grid, numbered as the dictionary numbers them.

        Raises:
            MaskError: ``segmentation_timeout``, ``segmentation_memory``, ``segmentation_licence``,
                ``segmentation_empty``, ``segmentation_failed``.
        """
        mode: Mode = self.settings.mode
        checks: list[QualityCheck] = []
        while True:
            try:
                numbers = self._ask(scan, mode)
                break
            except MaskError as error:
                smaller = _SMALLER.get(mode) if error.code == "segmentation_memory" else None
                if smaller is None or not self.settings.smaller_on_memory or missing_weights(smaller):
                    raise
                message = f"Memory did not suffice for TotalSegmentator's mode {mode!r}; {smaller!r} was used."
                checks.append(QualityCheck("segmentation_smaller", "warning", message))
                mode = smaller
        if not numbers.any():
            raise MaskError(
                "TotalSegmentator found no organ.", code="segmentation_empty", fix="Is the scan a CT of a body?"
            )
        return LabelMap(self._numbering[numbers], scan.affine), tuple(checks)

    def _check_weights(self, mode: Mode) -> None:
        missing = missing_weights(mode, with_crop=bool(self.settings.roi_subset))
        if missing and not self.settings.allow_download:
            raise MaskError(
                f"The scan has no masks, and TotalSegmentator's weights {', '.join(missing)} are not in "
                f"{weights_folder()}.",
                code="weights_missing",
                fix=f"Get them where there is a network with `totalseg_download_weights -t {_TASKS[mode]}`, put them "
                "there or name their folder in TOTALSEG_WEIGHTS_PATH, and try again (preprocess: --retry-failed); or "
                "give masks; or say that none are wanted: --set ct.segmentation=null.",
            )

    def _ask(self, scan: Scan, mode: Mode) -> np.ndarray:
        if self._worker is None:
            self._worker = _Worker()
        request = {
            "mode": mode,
            "roi_subset": list(self.settings.roi_subset),
            "device": self.settings.device,
            "threads": self.settings.threads,
            "allow_download": self.settings.allow_download,
            "affine": scan.affine.tolist(),
        }
        try:
            numbers = self._worker.ask(scan.hu, request, self.settings.timeout_s)
        except MaskError:
            if not self._worker.alive:
                self.close()
            raise
        except BaseException:  # an interrupt: the answer that is still to come must not be taken for the next scan's
            self.close()
            raise
        if numbers.shape != scan.hu.shape:
            raise MaskError("TotalSegmentator answered on another grid.", code="segmentation_failed")
        return numbers


def _numbering(organs: OrganDictionary) -> np.ndarray:
    """Look-up table from TotalSegmentator v2's numbers to the dictionary's labels."""
    table = np.zeros(256, np.uint8)
    for number, name in totalsegmentator_classes().items():
        organ = organs.from_source(name)
        table[number] = (organ.label or 0) if organ else 0
    return table


class _Worker:
    """The process that holds the model: one line of JSON asks, one answers, arrays go through files beside them."""

    command: tuple[str, ...] = python_module("ctglip.ct.segmentation_worker")

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ctglip_segmentation_")
        home = Path(self._folder.name)
        _private_home(home)
        self._log = (home / "log.txt").open("wb")
        environment = {
            **python_environment(),
            "TOTALSEG_WEIGHTS_PATH": str(weights_folder()),
            "TOTALSEG_HOME_DIR": str(home),
            "CTGLIP_WORKER_FOLDER": str(home),
        }
        self._process = subprocess.Popen(  # noqa: S603  our own module
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            text=True,
            start_new_session=True,  # Ctrl-C is for us: it would look like a crash there
        )
        self._answers: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()
        self._folder.cleanup()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def ask(self, hu: np.ndarray, request: dict[str, Any], timeout_s: float) -> np.ndarray:
        """TotalSegmentator's numbers ``[x, y, z]`` uint8, or the MaskError that came of it."""
        folder = Path(self._folder.name)
        np.save(folder / "scan.npy", hu)
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            self._process.kill()
            self._process.wait()
            raise MaskError(
                f"TotalSegmentator took longer than {timeout_s:.0f} s.",
                code="segmentation_timeout",
                fix="Raise timeout_s or choose a faster mode.",
            ) from None
        except BrokenPipeError:
            line = None
        if line is None:
            raise self._crash()
        answer = json.loads(line)
        if answer["error"]:
            raise MaskError(answer["message"], code=answer["error"], fix=answer["fix"])
        return np.load(folder / "labels.npy")

    def _crash(self) -> MaskError:
        status = self._process.wait()
        if status in (-9, 137):
            return MaskError(
                "TotalSegmentator was killed, most likely for want of memory.",
                code="segmentation_memory",
                fix="Choose a smaller mode or a machine with more memory.",
            )
        self._log.flush()
        log_lines = (Path(self._folder.name) / "log.txt").read_text(errors="replace").strip().splitlines()
        return MaskError(
            f"TotalSegmentator ended with status {status}: {log_lines[-1] if log_lines else 'it said nothing'}.",
            code="segmentation_failed",
        )


def _private_home(home: Path) -> None:
    """A TotalSegmentator configuration that sends nothing; the user's licence number, if any, goes with it."""
    settings: dict[str, Any] = {
        "totalseg_id": "totalseg_private",
        "send_usage_stats": False,
        "prediction_counter": 0,
        "statistics_disclaimer_shown": True,
    }
    try:
        installed = json.loads((_home() / "config.json").read_text())
        settings |= {key: installed[key] for key in ("license_number",) if key in installed}
    except (OSError, ValueError):
        pass
    (home / "config.json").write_text(json.dumps(settings))
