#!/bin/bash
# raysim on a Slurm allocation: one Ray node on each machine, the driver beside the head.
#
#     sbatch cluster/templates/slurm.sh quickstart rounds=50 --name slurm
#
# The words after the script are those of `raysim run`. Adapt the #SBATCH lines, and load your environment below: it
# must put `ray` and `raysim` in PATH on every machine.
#SBATCH --job-name=raysim
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --exclusive
#SBATCH --time=04:00:00
set -euo pipefail

# source "$HOME/raysim/.venv/bin/activate"

export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

# A token of this job's own, in a folder that all its machines see and only its owner can read.
umask 077
shared=$(mktemp -d "$HOME/.raysim-$SLURM_JOB_ID-XXXXXX")
export RAY_AUTH_TOKEN_PATH="$shared/auth_token"
od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$RAY_AUTH_TOKEN_PATH"

finish() {
    # shellcheck disable=SC2046  # one word for each job
    kill $(jobs -p) 2> /dev/null || true
    wait || true
    rm -rf "$shared"
}
trap finish EXIT

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
on_head=(srun --overlap --nodes=1 --ntasks=1 "--nodelist=${hosts[0]}")
ip=$("${on_head[@]}" hostname --ip-address | awk '{ print $1 }')
address="$ip:$((20000 + SLURM_JOB_ID % 10000))"
node=(
    "--num-cpus=$SLURM_CPUS_PER_TASK" "--num-gpus=${SLURM_GPUS_ON_NODE:-0}"
    "--temp-dir=/tmp/raysim-$SLURM_JOB_ID" --include-log-monitor=false --disable-usage-stats --block
)

"${on_head[@]}" ray start --head "--node-ip-address=$ip" "--port=${address##*:}" \
    --include-dashboard=false "${node[@]}" &

until "${on_head[@]}" ray health-check "--address=$address" > /dev/null 2>&1; do
    kill -0 $! # the head is still there
    sleep 2
done

others=$((SLURM_JOB_NUM_NODES - 1))
if [ "$others" -gt 0 ]; then
    srun --overlap "--nodes=$others" "--ntasks=$others" "--exclude=${hosts[0]}" \
        ray start "--address=$address" "${node[@]}" &
fi

"${on_head[@]}" raysim cluster run address --address "$address" --nodes "$SLURM_JOB_NUM_NODES" -- \
    raysim run "$@"
