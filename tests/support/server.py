"""A running database server and a user of it who may do everything."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

USER, PASSWORD = "experimenter", "p@ss'w\"ord%"  # on private servers


class Server:
    """A running database server and a user of it who may do everything."""

    provider: ClassVar[str]  # as in a config

    def __init__(self, name: str, host: str, port: int, user: str, password: str) -> None:
        self.name = name
        self.host = host
        self.port = port
        self.user = user
        self.password = password

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} at {self.host}:{self.port}>"

    def __reduce__(self) -> tuple[type[Server], tuple[str, str, int, str, str]]:
        # Another process may use a server that this one owns.
        return self.kind, (self.name, self.host, self.port, self.user, self.password)

    @property
    def kind(self) -> type[Server]:
        """The class of a server that another process owns."""
        raise NotImplementedError

    @functools.cached_property
    def version(self) -> str:
        return str(self.run("SELECT VERSION()")[0][0])

    def connect(self, database: str | None = None) -> Any:
        """Open a connection of the driver, in autocommit mode."""
        raise NotImplementedError

    def create_database(self, name: str) -> None:
        raise NotImplementedError

    def drop_database(self, name: str) -> None:
        raise NotImplementedError

    def create_user(self, name: str, password: str, database: str) -> None:
        """Create a user who may do everything in a database."""
        raise NotImplementedError

    def drop_user(self, name: str, database: str) -> None:
        """Drop the user, and the database with it where the server requires that."""
        raise NotImplementedError

    def run(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements, and return the rows of the last."""
        with self.connect() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []
