#!/bin/bash
# Preprocess a cohort on several Slurm nodes:
#
#   sbatch --nodes=4 preprocessing/cluster/slurm.sh /data/cohort.csv /data/store --config preprocess/organ_crops
#
# What follows the script's name is handed to `ctglip preprocess`. Cohort and store must be on a file system that all
# nodes see. Run the same command again after a time-out: it goes on where it stopped. See ../README.md.
#SBATCH --job-name=ctglip-preprocess
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --signal=B:INT@120          # two minutes before the end: finish cleanly
# For TotalSegmentator on GPUs add:  #SBATCH --gpus-per-node=1

set -euo pipefail
set -m                              # else a background command would ignore the interrupt
if [ "$#" -lt 2 ]; then
    echo "usage: sbatch $0 COHORT STORE [options of ctglip preprocess]" >&2
    exit 2
fi
VENV=${CTGLIP_VENV:-/shared/ctglip/.venv}       # change, or set CTGLIP_VENV
# shellcheck disable=SC1091
source "$VENV/bin/activate"
export RAY_USAGE_STATS_ENABLED=0 OMP_NUM_THREADS=1
# A token of this job's own: others on these nodes cannot run code in it.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
head_ip=$(srun --nodes=1 --ntasks=1 -w "$head" hostname --ip-address | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 20000))          # jobs on one machine do not meet
common=(--num-cpus="$SLURM_CPUS_PER_TASK" --object-store-memory=200000000 --block)
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

srun --nodes=1 --ntasks=1 -w "$head" \
    ray start --head --node-ip-address="$head_ip" --port="$port" --include-dashboard=false "${common[@]}" &
for ((wait = 0; wait < 60; wait++)); do
    (exec 3<>"/dev/tcp/$head_ip/$port") 2>/dev/null && break
    sleep 1
done
if [ "${#nodes[@]}" -gt 1 ]; then
    others=$(IFS=,; echo "${nodes[*]:1}")
    srun --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) -w "$others" \
        ray start --address="$head_ip:$port" "${common[@]}" &
fi

# In the background, so that the signal reaches this script at once and not when the command has ended.
ctglip preprocess "$@" --ray "$head_ip:$port" &
run=$!
trap 'kill -INT "$run"' INT
code=0
wait "$run" || code=$?
while kill -0 "$run" 2>/dev/null; do
    code=0
    wait "$run" || code=$?
done
exit "$code"
