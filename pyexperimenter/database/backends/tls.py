"""TLS: the certificates of a configuration. Only who uses them imports this module, since `ssl` is slow to load."""

from __future__ import annotations

import ssl
from typing import Any

from pyexperimenter.config.model import TlsConfig
from pyexperimenter.exceptions import DatabaseConnectionError


class _TlsContext(ssl.SSLContext):
    """Checks the server's certificate for `name` instead of the host that we connect to, if `name` is set."""

    name: str | None = None

    def wrap_socket(self, sock: Any, **options: Any) -> ssl.SSLSocket:  # type: ignore[override] # as the driver calls it
        """Wrap a socket, as the driver asks for it."""
        return super().wrap_socket(sock, **options | ({"server_hostname": self.name} if self.name else {}))


def tls_context(tls: TlsConfig, name: str | None = None) -> Any:
    """Return the SSL context for a configuration.

    Parameters
    ----------
    tls : TlsConfig
        The certificates, and whether the server's is checked.
    name : str, optional
        The name that the server's certificate must have; by default the host that we connect to.

    Raises
    ------
    DatabaseConnectionError
        If a certificate or key cannot be read.
    """
    context = _TlsContext(ssl.PROTOCOL_TLS_CLIENT)
    context.name = name
    try:
        if not tls.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif tls.ca:
            context.load_verify_locations(tls.ca)
        else:
            context.load_default_certs()
        if tls.cert:
            context.load_cert_chain(tls.cert, tls.key)
    except (OSError, ssl.SSLError) as error:
        files = [f"{name} {path}" for name, path in (("ca", tls.ca), ("cert", tls.cert), ("key", tls.key)) if path]
        raise DatabaseConnectionError(
            f"cannot use the TLS files ({', '.join(files)}): {error}; give PEM files that exist"
        ) from error
    return context


def authorities() -> str | None:
    """Return the file with the authorities that this system trusts, if there is one."""
    return ssl.get_default_verify_paths().cafile
