#!/bin/bash
# Trains on all workers of a TPU pod slice; start it on your own machine:
#
#   bash launch/pod/tpu.sh POD ZONE --config=configs/robult.py --workdir=/mnt/runs/robult
#
# Before that, once: the checkout with its .venv (".[tpu]" installed) in ~/promise_jax of
# every worker, and a file system mounted on all of them for --workdir, for instance
# Filestore. The processes find each other. After a preemption, the same command again.
pod=$1 zone=$2
shift 2
exec gcloud compute tpus tpu-vm ssh "$pod" --zone="$zone" --worker=all \
  --command="cd promise_jax && .venv/bin/python launch/train.py$(printf ' %q' "$@")"
