"""What can be read of a study while it runs, and what it starts from."""
