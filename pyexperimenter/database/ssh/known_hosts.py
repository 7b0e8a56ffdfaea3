"""Which keys an SSH server is known to have, by OpenSSH's files of known hosts."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable
from contextlib import suppress
from fnmatch import fnmatchcase
from hashlib import sha1
from hmac import compare_digest, digest
from pathlib import Path
from typing import NamedTuple


class KnownKey(NamedTuple):
    """A line of such a file: the type of the key and the key in base64, and whether it must not be trusted."""

    type: str
    base64: str
    revoked: bool


def known_keys(name: str, files: Iterable[Path]) -> list[KnownKey]:
    """Return what the files say of a host; ``[host]:port`` is its name if the port is not 22.

    Files that cannot be read say nothing, nor do lines for certificate authorities, which sign keys that stand nowhere.
    """
    found = []
    for file in files:
        with suppress(OSError):
            found += [key for line in file.read_text(errors="replace").splitlines() if (key := _key_for(name, line))]
    return found


def _key_for(name: str, line: str) -> KnownKey | None:
    fields = line.split()
    marker = fields.pop(0) if line.startswith("@") else ""
    if line.startswith("#") or len(fields) < 3 or marker not in ("", "@revoked") or not _matches(name, fields[0]):
        return None
    return KnownKey(fields[1], fields[2], bool(marker))


def _matches(name: str, hosts: str) -> bool:
    """Tell whether a name is meant by a field of hosts.

    >>> _matches("gate.example.org", "other,*.example.org"), _matches("gate.example.org", "*.example.org,!gate.*")
    (True, False)
    >>> _matches("[gate]:2222", "[gate]:2222"), _matches("gate", "[gate]:2222")
    (True, False)
    """
    if hosts.startswith("|1|"):
        return _is_hashed(name, hosts)
    patterns = [pattern.replace("[", "[[]") for pattern in hosts.lower().split(",")]  # brackets stand for themselves
    meant = [pattern for pattern in patterns if fnmatchcase(name.lower(), pattern.removeprefix("!"))]
    return bool(meant) and not any(pattern.startswith("!") for pattern in meant)


def _is_hashed(name: str, hosts: str) -> bool:
    with suppress(ValueError):
        _, _, salt, hashed = hosts.split("|")
        return compare_digest(b64encode(digest(b64decode(salt), name.encode(), sha1)), hashed.encode())
    return False
