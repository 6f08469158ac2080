"""Two and three processes give the value and the gradient of one process on the joined batch."""

from __future__ import annotations

import pytest
import torch
import torch.multiprocessing as mp

from tests.distributed.cases import CASES, SPLITS, data, run, worker


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.start_processes(worker, args=(str(folder),), nprocs=max(SPLITS), start_method="spawn")
    return folder


@pytest.fixture(params=list(SPLITS))
def ranks(request, folder):
    splits = enumerate(SPLITS[request.param])
    return {str(c): torch.load(folder / f"world{request.param}-split{i}.pt", weights_only=True) for i, c in splits}


@pytest.fixture(scope="module")
def alone():
    return run(data(), gather=True)


@pytest.mark.parametrize("case", list(CASES))
def test_gradient_across_ranks_is_that_of_one_process(ranks, alone, case):
    value, gradients = alone[case]
    assert value > 0
    for counts, results in ranks.items():
        theirs, their_gradients = results[case]
        torch.testing.assert_close(theirs, value, atol=1e-9, rtol=0, msg=f"value with rows {counts}")
        for name, gradient in gradients.items():
            torch.testing.assert_close(
                their_gradients[name], gradient, atol=1e-9, rtol=0, msg=f"gradient of {name} with rows {counts}"
            )
