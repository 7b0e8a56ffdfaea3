"""What is asked of the machine: SLURM, GPUs, load, locks between processes."""
