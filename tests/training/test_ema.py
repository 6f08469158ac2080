"""The average of the weights: by hand, and swapped in and out without a trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ctglip.training.ema import EMA


def test_the_average_is_that_worked_out_by_hand():
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 0.0)
    ema = EMA(net, 0.9)
    nn.init.constant_(net.weight, 1.0)
    ema.update(net, 0)  # keeps a tenth of the old: (1 + 0) / (10 + 0)
    assert float(ema.state["weight"]) == pytest.approx(0.9)
    nn.init.constant_(net.weight, 2.0)
    ema.update(net, 1000)  # keeps 0.9
    assert float(ema.state["weight"]) == pytest.approx(0.9 * 0.9 + 0.1 * 2.0)


def test_counters_are_taken_over():
    norm = nn.BatchNorm1d(2)
    ema = EMA(norm, 0.9)
    norm(torch.randn(4, 2))
    ema.update(norm, 500)
    assert int(ema.state["num_batches_tracked"]) == 1


def test_swapping_leaves_no_trace_even_after_an_error():
    torch.manual_seed(0)
    net = nn.Linear(3, 3)
    ema = EMA(net, 0.9)
    nn.init.normal_(net.weight)
    own = net.weight.detach().clone()
    with pytest.raises(ZeroDivisionError), ema.swapped(net):
        assert 1 / float((net.weight - ema.state["weight"]).detach().abs().max())  # they are the same
    assert torch.equal(net.weight, own)
    assert not torch.equal(ema.state["weight"], own)
