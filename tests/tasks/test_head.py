"""The head: attention and classifiers against formulas, and what it learns against a planted truth."""

# pyright: reportArgumentType=false
from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from ctglip.tasks.fit import Fit, predict, standardise
from ctglip.tasks.head import BagHead
from ctglip.tasks.losses import LabelLoss
from ctglip.tasks.settings import FitSettings, LossSettings
from ctglip.tasks.studies import TEST, TRAIN, VAL
from ctglip.tasks.targets import Task
from ctglip.training.optim import OptimSettings
from tests.tasks.toys import ORGANS, Plain, planted

STUDY = Task("anything", ORGANS)
KIDNEY = Task("kidney_left:renal_cyst", ("kidney_left",), "renal_cyst")
GRADE = Task("grade", ORGANS, None, ("none", "some", "much"))


PLAIN = LossSettings()


def fitted(tasks, seed=0, epochs=150, loss=PLAIN, holes=0.0, **kind):
    studies, source = planted(tasks, **kind)
    studies.values[np.random.default_rng(0).random(studies.values.shape) < holes] = np.nan
    torch.manual_seed(seed)
    network = Plain(BagHead(8, tasks, ORGANS, 16))
    standardise(network, source, studies.of(TRAIN))
    fit = Fit(network, source, tasks, studies.values, studies.of(TRAIN), studies.of(VAL),
              LabelLoss(tasks, studies.values[studies.of(TRAIN)], loss), FitSettings(epochs=epochs, batch=24),
              OptimSettings(lr=0.006, warmup=0, weight_decay=0.01), seed)  # fmt: skip
    done = fit.run()
    return studies, source, network, fit, done


def test_the_formula() -> None:
    """Gated attention over a task's organs, softmax within the study, linear classifier: written out by hand."""
    torch.manual_seed(0)
    head = BagHead(5, (Task("a", ("liver", "spleen")), GRADE), ORGANS, 7)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    x, organ, study = torch.randn(7, 5), torch.tensor([0, 1, 2, 3, 0, 2, 3]), torch.tensor([1, 1, 1, 1, 0, 0, 0])
    said = head(x, organ, study, 2)
    gate = torch.tanh(head.value(x)) * torch.sigmoid(head.gate(x))
    for s in range(2):
        for number, (task, columns) in enumerate(((0, [0]), (1, [1, 2, 3]))):
            members = [n for n in range(7) if study[n] == s and (task == 1 or int(organ[n]) < 2)]
            raw = torch.stack(
                [gate[n] @ head.attend.weight[number] + 10 * head.prefer[number, organ[n]] for n in members]
            )
            share = raw.softmax(0)
            torch.testing.assert_close(said.attention[members, number], share)
            bag = (share[:, None] * x[members]).sum(0)
            torch.testing.assert_close(said.logits[s, columns], head.weight[columns] @ bag + head.bias[columns])
    outside = [n for n in range(7) if int(organ[n]) >= 2]
    assert not said.attention[outside, 0].any()


def test_a_study_without_the_organs_gets_the_bias_and_a_finite_gradient() -> None:
    head = BagHead(4, (KIDNEY,), ORGANS)
    torch.nn.init.constant_(head.bias, 0.3)
    said = head(torch.randn(1, 4), torch.tensor([0]), torch.tensor([0]), 2)
    assert said.logits.tolist() == [[pytest.approx(0.3)], [pytest.approx(0.3)]]
    said.logits.sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in head.parameters())


def test_attention_finds_the_organ_that_carries_the_label() -> None:
    studies, source, _, fit, _ = fitted((STUDY,), studies=300)
    test = studies.of(TEST)
    said = fit.predict(test)
    share = said.attention[:, 0].reshape(-1, len(ORGANS)).mean(0)
    assert share.argmax() == 2
    assert share[2] > 0.7
    assert roc_auc_score(studies.values[test, 0], said.logits[:, 0]) > 0.9
    pooled = source.features.numpy().reshape(-1, 4, 8)
    plain = LogisticRegression().fit(pooled[studies.of(TRAIN)].mean(1), studies.values[studies.of(TRAIN), 0])
    mean = roc_auc_score(studies.values[test, 0], plain.decision_function(pooled[test].mean(1)))
    assert mean < 0.9


def test_a_column_of_one_organ_is_a_logistic_regression() -> None:
    studies, source, _, fit, _ = fitted((KIDNEY,), studies=300, loss=LossSettings(balance=False))
    test = studies.of(TEST)
    own = source.features.numpy().reshape(-1, 4, 8)[:, 2]
    reference = LogisticRegression().fit(own[studies.of(TRAIN)], studies.values[studies.of(TRAIN), 0])
    ours = fit.predict(test).logits[:, 0]
    assert np.corrcoef(ours, reference.decision_function(own[test]))[0, 1] > 0.98


def test_several_columns_of_different_kinds_with_holes_are_learned_together() -> None:
    tasks = (STUDY, GRADE)
    studies, _, _, fit, _ = fitted(tasks, studies=300, holes=0.3)
    test = studies.of(TEST)
    said = fit.predict(test).logits
    grade = studies.values[test, 1]
    known = np.isfinite(grade)
    assert (said[known, 1:].argmax(1) == grade[known]).mean() > 0.7


def test_unknown_labels_change_nothing() -> None:
    """The gradient of a batch with NaN is that of the batch without those entries."""
    tasks = (STUDY, GRADE)
    values = torch.tensor([[1.0, np.nan], [np.nan, 2.0], [0.0, 1.0]])
    logits = torch.randn(3, 4, requires_grad=True)
    loss = LabelLoss(tasks, values.numpy(), LossSettings(balance=False))
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


def test_the_best_pass_is_kept_and_fitting_stops() -> None:
    studies, source, network, fit, done = fitted((STUDY,), epochs=400)
    assert done.passes < 400
    assert done.passes - done.best == 30
    assert done.auroc[done.best] == max(done.auroc)
    again = predict(network, source, studies.of(VAL), 7)
    np.testing.assert_allclose(again.logits, fit.predict(studies.of(VAL)).logits, atol=1e-5)
    values = studies.values[studies.of(VAL)]
    assert roc_auc_score(values[:, 0], again.logits[:, 0]) == pytest.approx(done.auroc[done.best])
    loss = LabelLoss((STUDY,), studies.values[studies.of(TRAIN)], PLAIN)
    found = loss(torch.from_numpy(again.logits), torch.from_numpy(values)).item()
    assert found == pytest.approx(done.loss[done.best], rel=1e-3)
    assert found != pytest.approx(done.loss[-1], rel=1e-2), "the last pass is another"


def test_labels_of_the_test_split_change_nothing() -> None:
    first = fitted((STUDY,), epochs=10)
    second_studies, source = planted((STUDY,))
    second_studies.values[second_studies.of(TEST)] = 1 - second_studies.values[second_studies.of(TEST)]
    torch.manual_seed(0)
    network = Plain(BagHead(8, (STUDY,), ORGANS, 16))
    standardise(network, source, second_studies.of(TRAIN))
    train, val = second_studies.of(TRAIN), second_studies.of(VAL)
    fit = Fit(network, source, (STUDY,), second_studies.values, train, val,
              LabelLoss((STUDY,), second_studies.values[train], LossSettings()), FitSettings(epochs=10, batch=24),
              OptimSettings(lr=0.006, warmup=0, weight_decay=0.01), 0)  # fmt: skip
    fit.run()
    for a, b in zip(first[2].parameters(), network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_fit_that_is_cut_short_ends_the_same(tmp_path) -> None:
    """Two passes, a kill, then the rest: bit for bit what an uninterrupted fit gives."""

    def make(folder):
        studies, source = planted((STUDY,), studies=60)
        torch.manual_seed(3)
        network = Plain(BagHead(8, (STUDY,), ORGANS, 16, dropout=0.2))
        return network, Fit(network, source, (STUDY,), studies.values, studies.of(TRAIN), studies.of(VAL),
                            LabelLoss((STUDY,), studies.values, LossSettings()), FitSettings(epochs=6, batch=16),
                            OptimSettings(lr=0.02, warmup=2), 5, folder)  # fmt: skip

    whole, fit = make(tmp_path / "whole")
    done = fit.run()

    class Killed(Exception):
        pass

    def kill(passes: int, _: int) -> None:
        if passes == 3:
            raise Killed

    (tmp_path / "cut").mkdir()
    _, fit = make(tmp_path / "cut")
    with pytest.raises(Killed):
        fit.run(kill)
    second, fit = make(tmp_path / "cut")
    assert fit.run() == done
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
