"""A worker in its own process, and its supervisor."""
