#!/bin/bash
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
# Trains on the GPUs of several nodes, a process each; start it in the checkout:
#
#   sbatch launch/pod/slurm.sh /shared/runs/robult --config=configs/robult.py
#
# The processes find each other. Give GPUs a node, not a task (JAX picks one of them by
# the number of the task); on CPUs --ntasks-per-node=1 and no GPUs. Two minutes before
# the time is up the run saves, ends, and is put into the queue again.
workdir=$1
shift
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  .venv/bin/python launch/train.py --workdir="$workdir" "$@"
code=$?
# 143: told to end before it trained or after, when there was nothing to save.
[ $code = 0 ] || [ $code = 143 ] || exit $code
[ -e "$workdir/results.jsonl" ] || scontrol requeue "$SLURM_JOB_ID"
