#!/bin/bash
#SBATCH --job-name=food
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

# sbatch examples/slurm.sh: two machines of eight GPUs. Two minutes before its time is up the training saves and exits with
# 75; the job then goes back into the queue, and goes on where it was. docs/how-to/resume.md has the rest.
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    python -m finetune --model resnest50 --dataset food101 --output runs/food --resume auto
code=$?
if [ "$code" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
