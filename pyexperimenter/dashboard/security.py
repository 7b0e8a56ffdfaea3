"""Who may see the dashboard: one middleware around everything that it serves.

A login node's loopback is not private: other users of the machine reach the port, and so does every web page that a
user's browser shows. So there is a token, whose cookie other sites cannot use, and the name by which the browser called
us is checked. Changes need an origin and a token of their own form, too.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from hashlib import sha256
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

FORM = "pyexperimenter.form"
"""Key of a scope with the fields of a form that has been checked."""

CSRF = "pyexperimenter.csrf"
"""Key of a scope with the text that forms must send in their field ``csrf``."""

LARGEST_HEADERS = 32_768
"""Bytes that the headers of a request may have."""

_LARGEST_FORM = 65_536  # bytes
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not `no-referrer`: then, browsers do not send the origin of a form.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def new_token() -> str:
    """Return a token that cannot be guessed."""
    return secrets.token_urlsafe(32)


class Guard:
    """Lets only those in who have the token, and sends the headers that keep others out.

    Parameters
    ----------
    app : ASGI application
        What is served.
    token : str or None
        What the first URL must have; None if only the owner of a socket can connect.
    hosts : iterable of str
        Names of this machine by which a browser may call it. Addresses and ``localhost`` are always allowed: only a
        name can be made to point here by someone else.
    root_path : str
        Path below which the dashboard is reached.
    """

    def __init__(self, app: ASGIApp, token: str | None, hosts: frozenset[str], root_path: str) -> None:
        self._app = app
        self._token = token
        self._hosts = {"localhost", *(host.lower() for host in hosts)}
        self._root = root_path
        secret = (token or new_token()).encode()
        # The cookie and the token of forms do not show the token.
        self._cookie_value = hmac.new(secret, b"cookie", sha256).hexdigest()
        self._csrf = hmac.new(secret, b"form", sha256).hexdigest()
        # Browsers send cookies to all ports of a host, where other dashboards may have theirs.
        self._cookie = f"pyexperimenter-{hmac.new(secret, b'name', sha256).hexdigest()[:12]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            raise RuntimeError(f"the dashboard does not serve {scope['type']}")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        # A proxy may have removed the path below which we are reached, or not.
        if not f"{scope['path']}/".startswith(f"{self._root}/"):
            scope["path"] = f"{self._root}{scope['path']}"
        scope["root_path"] = self._root
        refusal = self._refusal(scope)
        app = self._app
        if refusal is not None:
            app = refusal
        elif scope["method"] == "POST":
            app = await self._form(scope, receive) or self._app
        scope[CSRF] = self._csrf
        await app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        """Return what is answered instead of the page; None if it may be seen."""
        headers = Headers(scope=scope)
        if sum(map(len, headers.keys())) + sum(map(len, headers.values())) > LARGEST_HEADERS:
            return _page("The headers of this request are too large", 431)
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return _page("This method is not allowed", 405)
        if not self._is_ours(headers.get("host", "")):
            return _page("This server is not called by that name. Use the address that the command has printed.", 400)
        if self._token is None:
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = dict(query).get("token")
        if given is not None and scope["method"] == "GET":
            return self._welcome(scope, query) if _same(given, self._token) else _page(_NO_TOKEN, 403)
        cookies = cookie_parser(headers.get("cookie", ""))
        return None if _same(cookies.get(self._cookie, ""), self._cookie_value) else _page(_NO_TOKEN, 403)

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name.lower() in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _welcome(self, scope: Scope, query: list[tuple[str, str]]) -> ASGIApp:
        """Return a page that sets the cookie and leads on.

        It is not a redirect: after a click on a page of another site, a browser would not send the cookie there.
        """
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        # Not `//host/`, which would be another one.
        path = quote(f"{self._root}/{scope['path'].removeprefix(self._root).lstrip('/')}")
        target = escape(f"{path}?{rest}" if rest else path)
        page = HTMLResponse(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Dashboard</title>'
            f'<meta http-equiv="refresh" content="0; url={target}"><p><a href="{target}">Open the dashboard</a>'
        )
        page.set_cookie(self._cookie, self._cookie_value, httponly=True, samesite="strict", path=f"{self._root}/")
        return page

    async def _form(self, scope: Scope, receive: Receive) -> ASGIApp | None:
        """Read a form into the scope, and return a refusal if it was not sent by one of our pages."""
        headers = Headers(scope=scope)
        origin = urlsplit(headers.get("origin", ""))
        if not origin.netloc or origin.netloc != headers.get("host"):
            return _page("This form was sent by another site. Nothing was changed.", 403)
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > _LARGEST_FORM:
                return _page("This form is too large", 413)
            if not message.get("more_body"):
                break
        try:
            form = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=1000)
        except ValueError:
            return _page("This is not a form", 400)
        if not _same(form.get("csrf", [""])[0], self._csrf):
            return _page("This form is out of date. Go back, reload the page, and try again.", 403)
        scope[FORM] = form
        return None


_NO_TOKEN = (
    "Open the address that the command printed when it started. It has a token, without which the dashboard shows "
    "nothing."
)


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


def _page(text: str, status: int) -> ASGIApp:
    return HTMLResponse(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{status}</title><h1>{status}</h1><p>{text}</p>',
        status,
    )


def names_of_this_machine() -> frozenset[str]:
    """Return the names by which others may call this machine."""
    return frozenset({socket.gethostname(), socket.getfqdn()})
