"""The way to a database behind an SSH server, opened by the program ssh of OpenSSH."""
