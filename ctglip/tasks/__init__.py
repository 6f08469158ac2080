"""Fine-tuning: a trained model learns a task from the studies of a store, beside other initializations.

``finetune(run, store, out, labels, config)`` trains by the trainer of pretraining, goes on where it was stopped, and
compares; ``FinetunedModel(folder).predict(store, study_ids)`` answers with what was tuned.

A task is a head, a loss, a metric, and targets from the store. It is a subclass of ``base.Task`` and one line in
``tuning.TASKS``, by the name that ``FinetuneConfig.task`` chooses it with; settings of its own are one in
``settings.CONFIGS``::

    class Age(Task[FinetuneConfig]):
        score = "agreement"                          # higher is better; validation keeps the best epoch by it

        @classmethod
        def open(cls, store, initializations, config, labels, callbacks):   # targets and inputs, read once
            return cls(config, Studies((), ids, values, patients, splits, problems))

        def network(self, initialization, rows):     # model and ``head``, what learns marked
            return ...                               # network(inputs, studies) gives a row for each study

        def loss(self, rows):                        # loss(outputs, targets)
            return nn.functional.l1_loss

        def batch(self, initialization, rows, rng):  # TaskBatch(inputs, targets); augmented where rng is given
            return ...

        def predict(self, network, initialization, rows):   # a table with the ``score`` of each study
            return ...

Batches, checkpoints, early stopping, resuming, shares of the labels, seeds, intervals over patients, paired
differences and the files of the run are the same for all tasks. What a task may change besides: ``measure`` and
``draws`` where the metric is no mean over studies, ``finish`` for more tables, ``results`` and ``page`` for more to
tell, ``tuned`` where the model itself learns, ``head_settings`` where less than the config builds the head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctglip.lazy import public_names

if TYPE_CHECKING:
    from ctglip.tasks.base import Task as Task
    from ctglip.tasks.ct_segmenter import ScanSegmenter as ScanSegmenter
    from ctglip.tasks.embed import EmbeddingTable as EmbeddingTable
    from ctglip.tasks.release import FinetunedModel as FinetunedModel
    from ctglip.tasks.report_draft import ReportDrafter as ReportDrafter
    from ctglip.tasks.results import TaskResults as TaskResults
    from ctglip.tasks.segmentation import OrganSegmenter as OrganSegmenter
    from ctglip.tasks.settings import FinetuneConfig as FinetuneConfig
    from ctglip.tasks.tuning import finetune as finetune

__getattr__, __dir__ = public_names(__name__)
