"""Private MariaDB servers."""

from __future__ import annotations

from pathlib import Path

from tests.support.mysql import PrivateMySQL, as_root
from tests.support.private_server import find_program, run

MARIADB_PATH = "PYEXPERIMENTER_TEST_MARIADB_PATH"


class PrivateMariaDB(PrivateMySQL):
    """A private MariaDB; `options` are the server's own."""

    brand = "mariadb"
    options = ("--innodb-log-file-size=8M", "--innodb-fast-shutdown=2")

    @staticmethod
    def find_program() -> str:
        return _find("mariadbd")

    @classmethod
    def initialize(cls, home: Path) -> None:
        run(
            _find("mariadb-install-db"),
            "--no-defaults",
            *as_root(),
            f"--datadir={home / 'data'}",
            f"--tmpdir={home}",  # a server that starts removes all temporary tables there, those of others, too
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
            "--innodb-log-file-size=4M",
        )


def _find(program: str) -> str:
    return find_program(program, "mariadb-server-core mariadb-client-core", variable=MARIADB_PATH)
