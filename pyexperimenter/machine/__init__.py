"""The machine that a worker runs on: SLURM, GPUs, load, and locks between processes."""
