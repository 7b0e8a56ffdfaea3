"""The way to a database behind an SSH server."""
