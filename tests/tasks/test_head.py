"""The head: attention and classifiers against formulas, and what it learns against a planted truth."""

# pyright: reportArgumentType=false
from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from ctglip.errors import CohortError
from ctglip.tasks.classification import macro_auroc
from ctglip.tasks.head import BagHead
from ctglip.tasks.losses import LabelLoss
from ctglip.tasks.results import TaskRun
from ctglip.tasks.runs import EpochBatches, initial_network, train_run
from ctglip.tasks.settings import ClassificationConfig, FitSettings, LossSettings
from ctglip.tasks.studies import TEST, TRAIN, VAL
from ctglip.tasks.targets import Target
from ctglip.training.callbacks import Callbacks
from ctglip.training.optim import OptimSettings
from tests.tasks.kills import Killed, killed_after
from tests.tasks.toys import ORGANS, TOY, Planted, planted

STUDY = Target("anything", ORGANS)
KIDNEY = Target("kidney_left:renal_cyst", ("kidney_left",), "renal_cyst")
GRADE = Target("grade", ORGANS, None, ("none", "some", "much"))


PLAIN = LossSettings()


def fitted(targets, folder, seed=0, epochs=150, loss=PLAIN, holes=0.0, change=None, **kind):
    """A planted classification, its run, and the network as it is kept."""
    studies, inputs = planted(targets, **kind)
    studies.values[np.random.default_rng(0).random(studies.values.shape) < holes] = np.nan
    if change:
        change(studies)
    optim = OptimSettings(lr=0.006, warmup=0, weight_decay=0.01)
    config = ClassificationConfig(loss=loss, fit=FitSettings(epochs=epochs, batch=24), optim=optim)
    task = Planted(config, studies, {"toy": inputs})
    run = train_run(task, TaskRun("toy", 1.0, seed), TOY, folder, Callbacks())
    return task, run.load(initial_network(task, TOY, run.run)), run


def test_the_formula() -> None:
    """Gated attention over a target's organs, softmax within the study, linear classifier: written out by hand."""
    torch.manual_seed(0)
    head = BagHead(5, (Target("a", ("liver", "spleen")), GRADE), ORGANS, 7)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    x, organ, study = torch.randn(7, 5), torch.tensor([0, 1, 2, 3, 0, 2, 3]), torch.tensor([1, 1, 1, 1, 0, 0, 0])
    said = head(x, organ, study, 2)
    gate = torch.tanh(head.value(x)) * torch.sigmoid(head.gate(x))
    for s in range(2):
        for number, (target, columns) in enumerate(((0, [0]), (1, [1, 2, 3]))):
            members = [n for n in range(7) if study[n] == s and (target == 1 or int(organ[n]) < 2)]
            raw = torch.stack(
                [gate[n] @ head.attend.weight[number] + 10 * head.prefer[number, organ[n]] for n in members]
            )
            share = raw.softmax(0)
            torch.testing.assert_close(said.attention[members, number], share)
            bag = (share[:, None] * x[members]).sum(0)
            torch.testing.assert_close(said.logits[s, columns], head.weight[columns] @ bag + head.bias[columns])
    outside = [n for n in range(7) if int(organ[n]) >= 2]
    assert not said.attention[outside, 0].any()


def test_features_are_standardised_by_organ_and_together() -> None:
    """Each organ's own mean is taken off, then all are divided by one spread around these means: 1 and 3 by hand."""
    head = BagHead(1, (STUDY,), ORGANS, 2)
    torch.nn.init.ones_(head.weight)
    head.standardise(torch.tensor([[9.0], [11.0], [103.0], [97.0]]), torch.tensor([0, 0, 2, 2]))
    spread = ((1 + 1 + 9 + 9) / 4) ** 0.5
    assert head.mean[:, 0].tolist() == pytest.approx([10.0, 0.0, 100.0, 0.0])
    answers = head(torch.tensor([[12.0], [97.0]]), torch.tensor([0, 2]), torch.tensor([0, 1]), 2).logits
    assert answers[:, 0].tolist() == pytest.approx([2 / spread, -3 / spread])


def test_a_study_without_the_organs_gets_the_bias_and_a_finite_gradient() -> None:
    head = BagHead(4, (KIDNEY,), ORGANS)
    torch.nn.init.constant_(head.bias, 0.3)
    said = head(torch.randn(1, 4), torch.tensor([0]), torch.tensor([0]), 2)
    assert said.logits.tolist() == [[pytest.approx(0.3)], [pytest.approx(0.3)]]
    said.logits.sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in head.parameters())


def test_attention_finds_the_organ_that_carries_the_label(tmp_path) -> None:
    task, network, _ = fitted((STUDY,), tmp_path, studies=300)
    studies, test = task.studies, task.studies.of(TEST)
    answers = task.answer(network, TOY, test)
    share = answers.attention[:, 0].reshape(-1, len(ORGANS)).mean(0)
    assert share.argmax() == 2
    assert share[2] > 0.7
    assert roc_auc_score(studies.values[test, 0], answers.logits[:, 0]) > 0.9
    pooled = task.inputs["toy"].features.numpy().reshape(-1, 4, 8)
    plain = LogisticRegression().fit(pooled[studies.of(TRAIN)].mean(1), studies.values[studies.of(TRAIN), 0])
    mean = roc_auc_score(studies.values[test, 0], plain.decision_function(pooled[test].mean(1)))
    assert mean < 0.9


def test_a_column_of_one_organ_is_a_logistic_regression(tmp_path) -> None:
    task, network, _ = fitted((KIDNEY,), tmp_path, studies=300, loss=LossSettings(balance=False))
    studies, test = task.studies, task.studies.of(TEST)
    own = task.inputs["toy"].features.numpy().reshape(-1, 4, 8)[:, 2]
    reference = LogisticRegression().fit(own[studies.of(TRAIN)], studies.values[studies.of(TRAIN), 0])
    ours = task.answer(network, TOY, test).logits[:, 0]
    assert np.corrcoef(ours, reference.decision_function(own[test]))[0, 1] > 0.98


def test_several_columns_of_different_kinds_with_holes_are_learned_together(tmp_path) -> None:
    task, network, _ = fitted((STUDY, GRADE), tmp_path, studies=900, holes=0.3, epochs=60)
    test = task.studies.of(TEST)
    logits, grade = task.answer(network, TOY, test).logits, task.studies.values[test, 1]
    known = np.isfinite(grade)
    assert (logits[known, 1:].argmax(1) == grade[known]).mean() > 0.7


def test_unknown_labels_change_nothing() -> None:
    """The gradient of a batch with NaN is that of the batch without those entries."""
    targets = (STUDY, GRADE)
    values = torch.tensor([[1.0, np.nan], [np.nan, 2.0], [0.0, 1.0]])
    logits = torch.randn(3, 4, requires_grad=True)
    loss = LabelLoss(targets, values.numpy(), LossSettings(balance=False))
    loss(logits, values).backward()
    assert logits.grad is not None
    assert not logits.grad[0, 1:].any()
    assert not logits.grad[1, 0].any()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits[[0, 2], 0], torch.tensor([1.0, 0.0]), reduction="sum"
    ) + torch.nn.functional.cross_entropy(logits[[1, 2], 1:], torch.tensor([2, 1]), reduction="sum")
    torch.testing.assert_close(loss(logits, values), expected / 4)
    nothing = loss(logits, torch.full((3, 2), torch.nan))
    assert float(nothing.detach()) == 0.0
    nothing.backward()


def test_rare_answers_weigh_as_much_as_common_ones() -> None:
    values = np.array([[1.0]] * 2 + [[0.0]] * 8, dtype=np.float32)
    loss = LabelLoss((STUDY,), values, LossSettings())
    weights = loss.get_buffer("weights_0")
    assert weights.tolist() == pytest.approx([10 / 16, 10 / 4])
    assert float(2 * weights[1]) == pytest.approx(float(8 * weights[0]))


def test_the_best_epoch_is_kept_and_training_stops(tmp_path) -> None:
    task, network, run = fitted((STUDY,), tmp_path, epochs=400)
    auroc = [one["val_macro_auroc"] for one in run.about["validations"]]
    assert run.about["epochs"] < 400
    assert run.about["epochs"] - run.about["best"] == 30
    assert auroc[run.about["best"]] == max(auroc)
    val = task.studies.of(VAL)
    logits = task.answer(network, TOY, val, 7).logits
    np.testing.assert_allclose(logits, task.answer(network, TOY, val).logits, atol=1e-5)
    values = task.studies.values[val]
    assert macro_auroc(logits, values, task.studies.targets) == pytest.approx(max(auroc))
    loss = task.loss(task.studies.of(TRAIN))(torch.from_numpy(logits), torch.from_numpy(values)).item()
    assert loss == pytest.approx(run.about["validations"][run.about["best"]]["val_loss"], rel=1e-3)
    assert loss != pytest.approx(run.about["validations"][-1]["val_loss"], rel=1e-2), "the last epoch is another"


def test_labels_of_the_test_split_change_nothing(tmp_path) -> None:
    def turn(studies) -> None:
        studies.values[studies.of(TEST)] = 1 - studies.values[studies.of(TEST)]

    _, first, _ = fitted((STUDY,), tmp_path / "a", epochs=10)
    _, second, _ = fitted((STUDY,), tmp_path / "b", epochs=10, change=turn)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_studies_without_a_label_are_not_read(tmp_path) -> None:
    def forget(studies) -> None:
        studies.values[studies.of(TRAIN)[::2]] = np.nan

    task, _, run = fitted((STUDY,), tmp_path / "a", epochs=2, change=forget)
    batches = EpochBatches(task, TOY, task.trainable(task.studies.of(TRAIN)), 24, 0)
    assert all(bool(batches(step).targets.isfinite().all()) for step in range(batches.steps))
    assert run.about["studies"] == 72
    with pytest.raises(CohortError, match="None of the 72 training studies"):
        fitted((STUDY,), tmp_path / "b", change=lambda studies: studies.values.fill(np.nan))


def test_a_run_that_is_cut_short_ends_the_same(tmp_path) -> None:
    """Three epochs, a kill, then the rest, with dropout: bit for bit what an uninterrupted run gives."""

    class Read(Planted):
        dropout = 0.2

        def cached(self, initialization) -> bool:
            return False

    studies, inputs = planted((STUDY,), studies=60)
    config = ClassificationConfig(fit=FitSettings(epochs=6, batch=16), optim=OptimSettings(lr=0.02, warmup=2))
    task, run = Read(config, studies, {"toy": inputs}), TaskRun("toy", 1.0, 5)
    whole = train_run(task, run, TOY, tmp_path / "whole", Callbacks())

    with pytest.raises(Killed):
        train_run(task, run, TOY, tmp_path / "cut", killed_after(3))
    told: list[str] = []
    again = train_run(task, run, TOY, tmp_path / "cut", Callbacks(message=told.append))
    assert told == ["toy-1-5 goes on after epoch 3."]
    assert again.about == whole.about
    one, other = (load_file(found.folder / "weights.safetensors") for found in (whole, again))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert train_run(task, run, TOY, tmp_path / "cut", Callbacks(message=told.append)).about == again.about
    assert told[1:] == ["toy-1-5 is done and skipped."]
