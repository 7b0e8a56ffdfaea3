"""Who may see the dashboard: each sentence of its middleware, with requests as browsers and attackers send them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from pyexperimenter.dashboard.security import CSRF, FORM, Guard

TOKEN = "the-token-of-this-test"
HOME = "http://127.0.0.1:8000"
Open = Callable[..., TestClient]


async def _echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with what the guard has put into the scope."""
    text = f"path {scope['path']} root {scope['root_path']} csrf {scope[CSRF]} form {scope.get(FORM)}"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text.encode()})


def _client(
    token: str | None = TOKEN, root: str = "", hosts: frozenset[str] = frozenset(), base: str = HOME
) -> TestClient:
    return TestClient(Guard(_echo, token, hosts, root), base_url=HOME, follow_redirects=False)


@pytest.fixture
def inside() -> TestClient:
    """A browser that has opened the printed address."""
    client = _client()
    assert client.get(f"/?token={TOKEN}").status_code == 200
    return client


def _csrf(client: TestClient) -> str:
    found = re.search(r"csrf (\w+)", client.get("/").text)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("path", ["/", "/s/study/", "/static/dashboard.css", "/?token=", "/?token=wrong"])
def test_without_the_token_nothing_is_seen(path: str) -> None:
    answer = _client().get(path)
    assert answer.status_code == 403 and "csrf" not in answer.text
    assert "set-cookie" not in answer.headers


def test_the_token_becomes_a_cookie_that_neither_scripts_nor_other_sites_have() -> None:
    client = _client()
    answer = client.get(f"/s/study/experiments?where=a%20%3C%20%22%3E&token={TOKEN}")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Path=/" in cookie
    assert TOKEN not in cookie and TOKEN not in answer.text
    assert 'url=/s/study/experiments?where=a+%3C+%22%3E"' in answer.text  # without the token, and not a redirect
    assert client.get("/s/study/").text.startswith("path /s/study/")


def test_the_page_that_leads_on_stays_here() -> None:
    answer = _client().get(f"http://127.0.0.1:8000//evil.example/%22%3E?token={TOKEN}")
    assert 'url=/evil.example/%22%3E"' in answer.text


def test_a_cookie_of_another_dashboard_does_not_open_this_one(inside: TestClient) -> None:
    other = _client(token="another")
    other.cookies.update(inside.cookies)
    assert other.get("/").status_code == 403
    other.cookies.set(next(iter(inside.cookies)), "")
    assert other.get("/").status_code == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost:9999", 200),  # the local end of ssh -L
        ("[::1]:8000", 200),
        ("node7.cluster:8000", 200),
        ("NODE7.cluster", 200),
        ("evil.example", 400),  # a name of another site that now points here
        ("127.0.0.1.evil.example", 400),
        ("[::1", 400),
        ("", 400),
    ],
)
def test_only_names_of_this_machine_are_answered(host: str, status: int) -> None:
    client = _client(hosts=frozenset({"node7.cluster"}))
    client.get(f"/?token={TOKEN}")
    assert client.get("/", headers={"host": host, "cookie": _cookies(client)}).status_code == status


def _cookies(client: TestClient) -> str:
    return "; ".join(f"{name}={value}" for name, value in client.cookies.items())


def test_headers_keep_other_sites_and_scripts_out(inside: TestClient) -> None:
    for answer in (inside.get("/"), _client().get("/"), inside.post("/")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert {source for part in policy.split("; ") for source in part.split()[1:]} == {"'none'", "'self'"}
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origin", [None, "null", "https://evil.example", "http://127.0.0.1:8001", "http://127.0.0.1"])
def test_changes_need_our_origin(inside: TestClient, origin: str | None) -> None:
    headers = {} if origin is None else {"origin": origin}
    answer = inside.post("/", data={"csrf": _csrf(inside)}, headers=headers)
    assert answer.status_code == 403 and "form" not in answer.text.partition("This form")[0]


@pytest.mark.parametrize("token", [None, "", "wrong"])
def test_changes_need_the_token_of_forms(inside: TestClient, token: str | None) -> None:
    data = {"action": "reset"} if token is None else {"action": "reset", "csrf": token}
    assert inside.post("/", data=data, headers={"origin": HOME}).status_code == 403


def test_a_form_of_ours_is_read(inside: TestClient) -> None:
    answer = inside.post(
        "/", data={"csrf": _csrf(inside), "action": "réset", "id": ["1", "2"]}, headers={"origin": HOME}
    )
    assert answer.status_code == 200 and "'action': ['réset'], 'id': ['1', '2']" in answer.text


@pytest.mark.parametrize(
    ("body", "status"), [(b"csrf=" + b"x" * 100_000, 413), (b"\xff\xfe", 400), (b"&a=1" * 2000, 400)]
)
def test_odd_forms_are_refused(inside: TestClient, body: bytes, status: int) -> None:
    assert inside.post("/", content=body, headers={"origin": HOME}).status_code == status


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(inside: TestClient, method: str) -> None:
    assert inside.request(method, "/").status_code == 405


@pytest.mark.parametrize("removed", [True, False])
def test_a_proxy_may_remove_the_path(removed: bool) -> None:
    client = _client(root="/user/me/proxy/1")
    prefix = "" if removed else "/user/me/proxy/1"
    answer = client.get(f"{prefix}/s/a?token={TOKEN}")
    assert 'url=/user/me/proxy/1/s/a"' in answer.text and "Path=/user/me/proxy/1/" in answer.headers["set-cookie"]
    headers = {"cookie": answer.headers["set-cookie"].partition(";")[0]}
    seen = client.get(f"{prefix}/s/a", headers=headers).text
    assert seen.startswith("path /user/me/proxy/1/s/a root /user/me/proxy/1 ")


def test_behind_a_socket_of_its_owner_no_token_is_needed() -> None:
    client = _client(token=None)
    assert client.get("/").status_code == 200
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    assert client.post("/", data={"csrf": "wrong"}, headers={"origin": HOME}).status_code == 403
