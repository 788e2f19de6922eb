#!/bin/bash
# One sweep on Slurm's nodes; submit it again when its time is over, and it goes on where it was:
#   sbatch deploy/slurm.sh conf/table1.yaml --data-root /shared/data --storage /shared/runs
#SBATCH --job-name=o2n-sweep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --output=o2n-%j.log
set -euo pipefail

python=${PYTHON:-$PWD/.venv/bin/python}
ray=$(dirname "$python")/ray
port=${PORT:-6379}
RAY_AUTH_TOKEN=$("$python" -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=$(head -n 1 <<<"$nodes")
head=$(srun --nodes=1 --ntasks=1 --nodelist="$first" hostname --ip-address | cut -d' ' -f1)

srun --nodes=1 --ntasks=1 --overlap --nodelist="$first" \
    "$ray" start --head --node-ip-address="$head" --port="$port" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --block &
workers=$((SLURM_JOB_NUM_NODES - 1))
if [ "$workers" -gt 0 ]; then
    sleep 15
    srun --nodes="$workers" --ntasks="$workers" --overlap --exclude="$first" \
        "$ray" start --address="$head:$port" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
fi

# Workers are counted when the sweep begins: wait until every node has joined.
for _ in $(seq 60); do
    joined=$("$python" -c "
import ray
ray.init(address='$head:$port', log_to_driver=False, logging_level='ERROR')
print(sum(node['Alive'] for node in ray.nodes()))" 2>/dev/null || echo 0)
    [ "$joined" -ge "$SLURM_JOB_NUM_NODES" ] && break
    sleep 5
done

"$python" -m harness run "$@" --runner ray --address "$head:$port" &
driver=$!
trap 'kill -TERM "$driver"' TERM # Slurm's time is nearly over: leave tables that are whole
status=0
wait "$driver" || status=$?
wait "$driver" 2>/dev/null || true
exit "$status"
