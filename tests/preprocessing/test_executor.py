"""Ray and this process alone give the same store, and no way of dying takes the run along."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ctglip_preprocessing.driver import preprocess_cohort

from ctglip.cohort import read_cohort
from ctglip.errors import CTGLIPError, OutputError
from tests.preprocessing.conftest import contents, statuses, write_table


def test_two_workers_give_the_same_store_as_one(make_cohort, config, tmp_path: Path) -> None:
    table, rows = make_cohort(6)
    rows[2]["image"] = "nowhere.nii.gz"
    write_table(table, rows)
    cohort = read_cohort(table)
    alone = preprocess_cohort(cohort, tmp_path / "alone", config)
    together = preprocess_cohort(cohort, tmp_path / "together", config, workers=2)
    assert alone.failed == together.failed
    assert (alone.written, together.written) == (5, 5)
    assert contents(tmp_path / "alone") == contents(tmp_path / "together")


def test_nothing_to_do_starts_no_ray(make_cohort, config, tmp_path: Path, monkeypatch) -> None:
    table, _ = make_cohort(2)
    preprocess_cohort(read_cohort(table), tmp_path / "store", config)
    monkeypatch.setattr("ctglip_preprocessing.executor.connect_ray", lambda *_: pytest.fail("Ray was started"))
    assert preprocess_cohort(read_cohort(table), tmp_path / "store", config, workers=2).worked == 0


def _deadly() -> None:
    """Set up in each worker: study 00001 kills it always, 00002 the first time."""
    from ctglip_preprocessing import case

    sound = case.run_case

    def run_case(one, hard_limits=False):
        study_id = one.row.study_id
        mark = one.plan.store.parent / f"died-{study_id}"
        if study_id == "00001" or (study_id == "00002" and not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return sound(one, hard_limits)

    case.run_case = run_case


def _full() -> None:
    """Set up in each worker: the disk is full for study 00002 while ``full`` lies beside the store."""
    from ctglip_preprocessing import case

    write = case.write_study

    def write_study(root, record):
        if record.study_id == "00002" and (root.parent / "full").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(root, record)

    case.write_study = write_study


@pytest.fixture
def ray_with(request: pytest.FixtureRequest) -> Iterator[None]:
    import ray

    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error",
        runtime_env={"worker_process_setup_hook": request.param},
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("ray_with", [_full], indirect=True)
@pytest.mark.usefixtures("ray_with")
def test_a_full_disk_under_a_worker_ends_the_run_and_costs_no_study(make_cohort, config, tmp_path: Path) -> None:
    table, _ = make_cohort(5)
    (tmp_path / "full").touch()
    with pytest.raises(OutputError, match="No space left"):
        preprocess_cohort(read_cohort(table), tmp_path / "store", config, workers=2)
    assert "00002" not in statuses(tmp_path / "store")
    (tmp_path / "full").unlink()
    summary = preprocess_cohort(read_cohort(table), tmp_path / "store", config, workers=2)
    assert summary.failed == ()
    assert len(statuses(tmp_path / "store")) == 5


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("ray_with", [_deadly], indirect=True)
@pytest.mark.usefixtures("ray_with")
def test_a_study_that_kills_its_worker_is_tried_again_and_then_a_row(make_cohort, config, tmp_path: Path) -> None:
    table, _ = make_cohort(5)
    summary = preprocess_cohort(read_cohort(table), tmp_path / "store", config, workers=2)
    (failure,) = summary.failed
    assert (failure.study_id, failure.stage, failure.code) == ("00001", "worker", "worker_died")
    assert failure.details == {"attempts": 2}
    assert summary.written == 4


@pytest.mark.slow
def test_a_study_that_takes_too_long_ends_in_a_worker_too(make_cohort, config, tmp_path: Path) -> None:
    table, _ = make_cohort(4)
    quick = config.model_copy(update={"study_timeout_s": 0.02})
    summary = preprocess_cohort(read_cohort(table), tmp_path / "store", quick, workers=2)
    assert [failure.code for failure in summary.failed] == ["timeout"] * 4
    assert summary.written == 0


@pytest.mark.slow
def test_no_cluster_is_the_users_fault(make_cohort, config, tmp_path: Path) -> None:
    table, _ = make_cohort(1)
    with pytest.raises(CTGLIPError) as error:
        preprocess_cohort(read_cohort(table), tmp_path / "store", config, address="127.0.0.1:1")
    assert error.value.code == "no_cluster"


@pytest.mark.slow
@pytest.mark.ci
def test_a_node_that_dies_takes_no_study_along(make_cohort, config, tmp_path: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster

    table, _ = make_cohort(40)
    cohort = read_cohort(table)
    preprocess_cohort(cohort, tmp_path / "alone", config)
    memory = {"object_store_memory": 100 * 2**20, "memory": 6 * 10**9}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **memory})
    doomed = cluster.add_node(num_cpus=1, **memory)

    def watch(results, total: int):
        for number, result in enumerate(results, start=1):
            yield result
            if number == 5:
                cluster.remove_node(doomed, allow_graceful=False)

    def alive() -> int:
        return sum(node["Alive"] for node in ray.nodes())

    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        summary = preprocess_cohort(cohort, tmp_path / "store", config, address=cluster.address, watch=watch)
        patience = time.monotonic() + 60  # the cluster may learn of the death after the last study
        while alive() > 1 and time.monotonic() < patience:
            time.sleep(0.2)
        left = alive()
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert left == 1
    assert (summary.written + summary.up_to_date, summary.failed) == (40, ())
    assert contents(tmp_path / "store") == contents(tmp_path / "alone")


def _stand_in_segmentation() -> None:
    """Set up in each worker: the segmentation only notes where it ran, and on which GPU."""
    from ctglip_preprocessing import case

    def locate_organs(one):
        import ray

        context = ray.get_runtime_context()
        where = f"{context.get_actor_id()} {os.environ.get('CUDA_VISIBLE_DEVICES')} {os.getpid()}"
        (one.row.image.parent / f"{one.row.study_id}.where").write_text(where)
        return one

    case.STAGES = tuple((name, locate_organs if name == "segment" else stage) for name, stage in case.STAGES)


@pytest.mark.slow
def test_segmentation_goes_to_one_process_a_gpu_and_the_rest_to_tasks(make_cohort, config, tmp_path: Path) -> None:
    import ray

    from ctglip.ct.segmentation import SegmentationSettings

    table, rows = make_cohort(10)
    for row in rows[:6]:
        del row["masks"]
    write_table(table, rows)
    volume = config.ct.model_copy(update={"segmentation": SegmentationSettings()})
    ray.init(
        address="local", num_cpus=3, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level="error",
        runtime_env={"worker_process_setup_hook": _stand_in_segmentation},
    )  # fmt: skip
    try:
        changed = config.model_copy(update={"ct": volume})
        summary = preprocess_cohort(read_cohort(table), tmp_path / "store", changed, workers=3)
    finally:
        ray.shutdown()
    assert (summary.written, summary.failed) == (10, ())
    where = [(tmp_path / f"{row['study_id']}.where").read_text().split() for row in rows]
    assert {actor for actor, _, _ in where[6:]} == {"None"}
    assert len({actor for actor, _, _ in where[:6]}) == 2
    assert {gpu for _, gpu, _ in where[:6]} == {"0", "1"}
