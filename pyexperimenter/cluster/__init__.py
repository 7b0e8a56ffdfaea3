"""Workers as jobs, on SLURM or on this machine."""
