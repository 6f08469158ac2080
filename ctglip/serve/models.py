"""The models of a server, each under a short key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctglip.api import load_model
from ctglip.errors import CTGLIPError
from ctglip.inference.pipeline import Pipeline
from ctglip.tasks.report_draft import ReportDrafter


@dataclass(frozen=True)
class ServedModel:
    """A model that is asked.

    Attributes:
        key: in addresses and answers: ``m0``, ``m1`` ...
        name: of its run's folder.
        pipeline: the model.
        drafter: writes reports with it, where its run was tuned to.
    """

    key: str
    name: str
    pipeline: Pipeline
    drafter: ReportDrafter | None = None

    def about(self) -> dict[str, Any]:
        """What a page says of it."""
        calibration = self.pipeline.scorer.calibration
        return {
            "key": self.key,
            "name": self.name,
            "modality": self.pipeline.modality.name,
            "reads": self.pipeline.modality.images,
            "files": self.pipeline.modality.files,
            "calibrated": calibration.fitted_on is not None,
            "fitted_on": calibration.fitted_on,
            "organs": len(self.pipeline.known),
            "writes_reports": self.drafter is not None,
            "findings": sum(len(names) for names in self.pipeline.trained.values()),
        }


def load_models(runs: Sequence[Path]) -> dict[str, ServedModel]:
    """Load some runs.

    Raises:
        ModelError: as ``load_model``.
        CTGLIPError: code ``several_modalities``: the runs read different kinds of images.
    """
    found: dict[str, ServedModel] = {}
    for number, run in enumerate(runs):
        folder = run.resolve()
        drafter = ReportDrafter(run) if (run / "head" / "report.json").is_file() else None
        pipeline = drafter.pipeline if drafter else load_model(run)
        name = folder.parent.name if folder.name == "model" else folder.name
        found[f"m{number}"] = ServedModel(f"m{number}", name, pipeline, drafter)
    if len({one.pipeline.modality.name for one in found.values()}) > 1:
        raise CTGLIPError(
            "The runs read different kinds of images.",
            code="several_modalities",
            fix="Serve models of scans and models of radiographs on two ports.",
        )
    return found
