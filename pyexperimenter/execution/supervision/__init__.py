"""A worker in a process of its own, and who watches over it."""
