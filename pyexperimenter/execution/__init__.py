"""What a worker does: claim, call the function, finish."""
