#!/bin/bash
#SBATCH --job-name=prefloop
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00

# Runs a command of prefloop on several nodes:  sbatch examples/slurm.sh align -C /shared/project
# The project folder, and the environment with prefloop, are where all nodes see them.
# A rank that dies ends all of them, and torchrun starts them again from the last checkpoint.

set -euo pipefail
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # Otherwise a restarted rank is told the addresses of those that died.
export OMP_NUM_THREADS=4
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun --kill-on-bad-exit=1 torchrun \
    --nnodes="$SLURM_NNODES" \
    --nproc-per-node="${SLURM_GPUS_ON_NODE:-8}" \
    --max-restarts=3 \
    --rdzv-backend=c10d \
    --rdzv-endpoint="$first:29500" \
    --rdzv-id="$SLURM_JOB_ID" \
    -m -- prefloop "$@" # Without the two dashes torchrun takes options such as --n for its own.
