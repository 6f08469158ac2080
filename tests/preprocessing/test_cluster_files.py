"""The example files for clusters are what Ray and Slurm take."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ctglip.config import read_yaml
from ctglip.store.tables import Store

FOLDER = Path(__file__).resolve().parents[2] / "preprocessing" / "cluster"
SCONTROL = "#!/bin/bash\nprintf 'node1\\nnode2\\n'\n"
SRUN = '#!/bin/bash\nwhile [[ "$1" == -* ]]; do [[ "$1" == -w ]] && shift; shift; done\nexec "$@"\n'


def test_the_cluster_file_is_what_ray_takes() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(read_yaml(FOLDER / "ray-cluster.yaml"))
    validate_config(config)
    assert config["max_workers"] == 2


def test_the_slurm_script_is_bash_and_says_how_to_be_called() -> None:
    done = subprocess.run(["bash", FOLDER / "slurm.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "COHORT STORE" in done.stderr


@pytest.mark.slow
def test_the_slurm_script_runs_a_cohort_on_two_nodes(make_cohort, tmp_path: Path) -> None:
    """Two nodes on this machine: ``srun`` and ``scontrol`` are stand-ins, Ray and the command are real."""
    table, rows = make_cohort(6)
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("", 0))
        job = (probe.getsockname()[1] - 20000) % 20000
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "CTGLIP_VENV": str(Path(sys.executable).parents[1]),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_ID": str(job),
        "SLURM_CPUS_PER_TASK": "1",
    }
    done = subprocess.run(
        ["bash", FOLDER / "slurm.sh", table, tmp_path / "store", "--config", "preprocess/demo_3mm"],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "6 studies written" in done.stdout
    assert len(Store.open(tmp_path / "store").study_ids) == len(rows)
