"""The tasks that pretraining is for, each beside random weights and with few labels.

    python -m experiments.tasks segmentation|report [--quick] [--json FILE] [--out DIR]

Pretraining sees the reports of one simulated cohort; a task learns from the truth of another one. Figures say how well
the machinery learns from simulated patients, nothing about clinical use. What is already in DIR is not made again.
"""

from __future__ import annotations

from pathlib import Path

from experiments.command import keep, parser_of
from experiments.tasks.report import report
from experiments.tasks.segmentation import segmentation

TASKS = {"segmentation": segmentation, "report": report}
"""What measures each task: ``(out, quick)`` to its figures."""


def main() -> None:
    """Measure, show, and write."""
    parser = parser_of("tasks", __doc__, "does it run: tiny cohorts, a few steps")
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("--out", type=Path, default=Path("tasks-output"), help="cohorts and runs")
    asked = parser.parse_args()
    out = asked.out / f"{asked.task}{'-quick' if asked.quick else ''}"
    keep(TASKS[asked.task](out, asked.quick), asked.json)


if __name__ == "__main__":
    main()
