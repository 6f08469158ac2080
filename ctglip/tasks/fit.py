"""The fitting of one network: passes over the training studies, the best one on the validation studies kept.

Batches, augmentation and dropout of a pass are functions of (seed, pass), so an interrupted fit that goes on from its
last checkpoint ends where it would have ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ctglip.errors import ModelError
from ctglip.evaluation.bootstrap import Question, weighted_auroc
from ctglip.files import atomic_path
from ctglip.tasks.inputs import Source
from ctglip.tasks.losses import LabelLoss
from ctglip.tasks.network import Inputs, Network
from ctglip.tasks.settings import FitSettings
from ctglip.tasks.targets import Task
from ctglip.training.optim import OptimSettings, build_optimizer, set_learning_rate

Progress = Callable[[int, int], None]
_TIE = 1e-6


@dataclass
class Fitted:
    """How a fit went.

    Attributes:
        best: the pass that was kept; 0: the start.
        passes: how many were made.
        auroc, loss: on the validation studies after each pass, the start first; empty where they say nothing.
    """

    best: int = 0
    passes: int = 0
    auroc: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Predictions:
    """What a network says of some studies.

    Attributes:
        logits: ``[s, c]``.
        rows: instances that were read; attention: the share of each of them, ``[n, t]``.
    """

    logits: Float[np.ndarray, "s c"]
    rows: Int[np.ndarray, " n"]
    attention: Float[np.ndarray, "n t"]


class Fit:
    """One fit.

    Args:
        network: on its device, with the parameters that learn marked.
        source: organs.
        tasks: the columns.
        values: labels of all studies, NaN where not known.
        train, val: rows of the studies; without ``val`` the last pass is kept.
        loss: over the known labels.
        fit, optim: how long and how fast.
        seed: of batches and augmentation.
        folder: where checkpoints are kept; None keeps none.
    """

    def __init__(
        self,
        network: Network,
        source: Source,
        tasks: Sequence[Task],
        values: Float[np.ndarray, "s t"],
        train: Int[np.ndarray, " n"],
        val: Int[np.ndarray, " m"],
        loss: LabelLoss,
        fit: FitSettings,
        optim: OptimSettings,
        seed: int,
        folder: Path | None = None,
    ) -> None:
        self.network, self.source, self.tasks, self.values = network, source, tasks, values
        self.train, self.val, self.settings, self.optim = train, val, fit, optim
        self.seed, self.folder = seed, folder
        self.device = next(network.parameters()).device
        self.loss = loss.to(self.device)
        self.optimizer = build_optimizer(network, optim)
        self.learned = {name for name, value in network.named_parameters() if value.requires_grad}
        self.done = Fitted()
        self.kept = self._state()

    def run(self, progress: Progress | None = None) -> Fitted:
        """Fit to the end, from the checkpoint where there is one; the network is left as it was at its best.

        Raises:
            ModelError: code ``not_finite``: a loss is not a number.
        """
        if not self._resume():
            self._judge(0)
        epochs = self.settings.epochs
        while self.done.passes < epochs and not self._stale():
            self._pass(self.done.passes)
            self.done.passes += 1
            self._judge(self.done.passes)
            if self.done.passes % self.settings.checkpoint_every == 0:
                self._save()
            if progress:
                progress(self.done.passes, epochs)
        self.network.load_state_dict(self.kept, strict=False)
        self.network.eval()
        return self.done

    def predict(self, studies: Int[np.ndarray, " s"]) -> Predictions:
        """Answers about some studies."""
        return predict(self.network, self.source, studies, self.settings.batch)

    def _pass(self, number: int) -> None:
        rng = np.random.default_rng((self.seed, number))
        torch.manual_seed(int(rng.integers(2**31)))
        order = rng.permutation(self.train)
        steps = max(round(len(order) / self.settings.batch), 1)
        self.network.train()
        for step, studies in enumerate(np.array_split(order, steps)):
            set_learning_rate(self.optimizer, number * steps + step, self.settings.epochs * steps, self.optim)
            rows, owner = self.source.bags.rows(studies)
            values = torch.from_numpy(self.values[studies]).to(self.device)
            if not len(rows) or not bool(values.isfinite().any()):
                continue
            inputs = to_device(self.source.inputs(rows, rng), self.device)
            organ = torch.from_numpy(self.source.bags.organ[rows]).to(self.device)
            said = self.network(inputs, organ, torch.from_numpy(owner).to(self.device), len(studies))
            loss = self.loss(said.logits, values)
            if not bool(torch.isfinite(loss)):
                raise ModelError(
                    f"The loss is not a number in pass {number + 1}, step {step + 1}.",
                    code="not_finite",
                    fix="Lower optim.lr.",
                )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), self.optim.clip or float("inf"))
            self.optimizer.step()

    def _judge(self, passes: int) -> None:
        """Validate, and keep the weights where they are the best so far: by macro AUROC, ties by the loss."""
        if not len(self.val):
            self.done.best, self.kept = passes, self._state()
            return
        logits = self.predict(self.val).logits
        values = self.values[self.val]
        auroc = macro_auroc(logits, values, self.tasks)
        with torch.no_grad():
            loss = float(self.loss(torch.from_numpy(logits).to(self.device), torch.from_numpy(values).to(self.device)))
        before = self.done
        ahead = not before.auroc or auroc > before.auroc[before.best] + _TIE
        tied = bool(before.auroc) and abs(auroc - before.auroc[before.best]) <= _TIE
        if ahead or (tied and loss < before.loss[before.best]):
            before.best, self.kept = passes, self._state()
        before.auroc.append(auroc)
        before.loss.append(loss)

    def _stale(self) -> bool:
        patience = self.settings.patience
        return bool(patience and len(self.val) and self.done.passes - self.done.best >= patience)

    def _state(self) -> dict[str, Tensor]:
        """What learns, and the buffers beside it (batch statistics), copied."""
        buffers = {name for name, _ in self.network.named_buffers()}
        state = self.network.state_dict()
        return {name: state[name].detach().clone() for name in state if name in self.learned or name in buffers}

    @property
    def _file(self) -> Path | None:
        return None if self.folder is None else self.folder / "fit.pt"

    def _save(self) -> None:
        if self._file is None:
            return
        done = self.done
        state: dict[str, Any] = {
            "network": self._state(),
            "kept": self.kept,
            "optimizer": self.optimizer.state_dict(),
            "done": {"best": done.best, "passes": done.passes, "auroc": done.auroc, "loss": done.loss},
        }
        with atomic_path(self._file) as temporary:
            torch.save(state, temporary)

    def _resume(self) -> bool:
        if self._file is None or not self._file.is_file():
            return False
        state = torch.load(self._file, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.kept, self.done = state["kept"], Fitted(**state["done"])
        return True


@torch.no_grad()
def predict(network: Network, source: Source, studies: Int[np.ndarray, " s"], batch: int) -> Predictions:
    """Answers about some studies, in evaluation mode."""
    if not len(studies):
        head = network.head
        none = np.zeros((0, len(head.bias)), np.float32), np.zeros((0, len(head.prefer)), np.float32)
        return Predictions(none[0], np.zeros(0, np.int64), none[1])
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    logits, attention, read = [], [], []
    for start in range(0, len(studies), batch):
        some = studies[start : start + batch]
        rows, owner = source.bags.rows(some)
        inputs = to_device(source.inputs(rows, None), device)
        organ = torch.from_numpy(source.bags.organ[rows]).to(device)
        said = network(inputs, organ, torch.from_numpy(owner).to(device), len(some))
        logits.append(said.logits.float().cpu().numpy())
        attention.append(said.attention.float().cpu().numpy())
        read.append(rows)
    network.train(was_training)
    return Predictions(np.concatenate(logits), np.concatenate(read), np.concatenate(attention))


def to_device(inputs: Inputs, device: torch.device) -> Inputs:
    """Inputs where the network is."""
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    return {name: value.to(device) for name, value in inputs.items()}


@torch.no_grad()
def standardise(network: Network, source: Source, studies: Int[np.ndarray, " s"], batch: int = 256) -> None:
    """Let the head of raw features take its means and spreads from the training organs, as the tower reads them now."""
    if network.space != "raw":
        return
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    rows, _ = source.bags.rows(studies)
    parts = [
        network.read(to_device(source.inputs(rows[start : start + batch], None), device)).float()
        for start in range(0, len(rows), batch)
    ]
    network.head.standardise(torch.cat(parts), torch.from_numpy(source.bags.organ[rows]).to(device))
    network.train(was_training)


def macro_auroc(logits: Float[np.ndarray, "s c"], values: Float[np.ndarray, "s t"], tasks: Sequence[Task]) -> float:
    """Mean AUROC over columns and classes that have both answers; 0.5 where none has."""
    found, start = [], 0
    for number, task in enumerate(tasks):
        rows = np.isfinite(values[:, number])
        for position in range(task.width):
            truth = (values[rows, number] == (position if task.classes else 1)).astype(int)
            question = Question(truth, logits[rows, start + position], np.zeros(len(truth), dtype=int))
            if 0 < truth.sum() < len(truth):
                found.append(weighted_auroc(question, np.ones((1, 1)))[0])
        start += task.width
    return float(np.mean(found)) if found else 0.5
