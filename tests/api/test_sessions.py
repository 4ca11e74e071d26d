"""Browsers: they sign in with a key, are known by a cookie, and no other site can use it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from store.database import Sessions
from store.tables import BrowserSession
from web.credentials import COOKIE

OURS = {"X-Requested-With": "dashboard"}


@pytest.fixture
def browser(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url="http://automl.test", raise_server_exceptions=False) as browser:
        yield browser


def sign_in(browser: TestClient, secret: str) -> None:
    assert browser.post("/v1/session", json={"key": secret}).status_code == 201


def test_a_key_opens_a_session_that_may_what_the_key_may(browser: TestClient, secrets: dict[str, str]) -> None:
    assert browser.get("/v1/session").status_code == 401
    made = browser.post("/v1/session", json={"key": secrets["viewer"]})
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    cookie = made.headers["set-cookie"]
    assert {"HttpOnly", "Path=/", "SameSite=strict"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert secrets["viewer"] not in cookie
    me = browser.get("/v1/session").json()
    assert me == made.json()
    assert (me["name"], me["role"]) == ("the viewer", "viewer")
    assert browser.get("/v1/datasets").status_code == 200
    assert browser.post("/v1/datasets", json={"name": "d"}, headers=OURS).status_code == 403
    assert browser.get("/v1/keys").status_code == 403


def test_behind_https_the_cookie_is_secure(app: FastAPI, secrets: dict[str, str]) -> None:
    with TestClient(app, base_url="https://automl.test") as browser:
        made = browser.post("/v1/session", json={"key": secrets["viewer"]})
    assert "Secure" in made.headers["set-cookie"].split("; ")


@pytest.mark.parametrize("key", ["nw_wrong", "nw_" + "A" * 43, "nws_" + "A" * 43, "ein Schlüssel"])
def test_a_wrong_key_opens_no_session(browser: TestClient, secrets: dict[str, str], key: str) -> None:
    refused = browser.post("/v1/session", json={"key": key})
    assert refused.status_code == 401
    assert "set-cookie" not in refused.headers


def test_a_session_ends_when_its_browser_signs_out(browser: TestClient, secrets: dict[str, str]) -> None:
    sign_in(browser, secrets["viewer"])
    token = browser.cookies[COOKIE]
    assert browser.delete("/v1/session", headers=OURS).status_code == 204
    assert COOKIE not in browser.cookies
    assert browser.get("/v1/session", headers={"Cookie": f"{COOKIE}={token}"}).status_code == 401
    assert browser.get("/v1/session", headers={"X-API-Key": secrets["viewer"]}).status_code == 200


def test_a_session_ends_with_its_key(browser: TestClient, client: TestClient, secrets: dict[str, str]) -> None:
    sign_in(browser, secrets["viewer"])
    key = browser.get("/v1/session").json()["key"]
    assert client.delete(f"/v1/keys/{key}").status_code == 204
    assert browser.get("/v1/session").status_code == 401


def test_a_session_lasts_no_longer_than_its_key(browser: TestClient, client: TestClient) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    key = client.post("/v1/keys", json={"name": "k", "role": "viewer", "expires_at": soon.isoformat()}).json()
    sign_in(browser, key["secret"])
    assert datetime.fromisoformat(browser.get("/v1/session").json()["expires_at"]) == soon


def test_an_expired_session_opens_nothing_and_is_swept_away(
    browser: TestClient, secrets: dict[str, str], sessions: Sessions
) -> None:
    sign_in(browser, secrets["viewer"])
    with sessions.begin() as session:
        session.execute(update(BrowserSession).values(expires_at=func.clock_timestamp() - timedelta(seconds=1)))
    assert browser.get("/v1/session").status_code == 401
    sign_in(browser, secrets["viewer"])
    with sessions.begin() as session:
        assert session.scalar(select(func.count()).select_from(BrowserSession)) == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"X-Requested-With": ""}, 403),
        (OURS, 201),
        (OURS | {"Origin": "http://automl.test"}, 201),
        (OURS | {"Origin": "http://evil.test"}, 403),
        (OURS | {"Origin": "null"}, 403),
        (OURS | {"Sec-Fetch-Site": "same-origin"}, 201),
        (OURS | {"Sec-Fetch-Site": "same-site"}, 403),
        (OURS | {"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 403),
    ],
)
def test_no_other_site_can_make_a_browser_change_anything(
    browser: TestClient, secrets: dict[str, str], headers: dict[str, str], status: int
) -> None:
    sign_in(browser, secrets["editor"])
    answer = browser.post("/v1/datasets", json={"name": "pets"}, headers=headers)
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["type"] == "urn:netwright:problem:cross-site"


def test_no_other_site_can_sign_a_browser_in(browser: TestClient, secrets: dict[str, str]) -> None:
    body = {"key": secrets["editor"]}
    assert browser.post("/v1/session", json=body, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert browser.post("/v1/session", json=body, headers={"Origin": "http://evil.test"}).status_code == 403
    assert browser.post("/v1/session", content=f'{{"key": "{secrets["editor"]}"}}').status_code == 415


def test_a_token_is_no_key_and_stands_nowhere_in_the_clear(
    browser: TestClient, client: TestClient, secrets: dict[str, str]
) -> None:
    sign_in(browser, secrets["viewer"])
    token = browser.cookies[COOKIE]
    browser.cookies.clear()
    assert browser.get("/v1/session", headers={"Authorization": f"Bearer {token}"}).status_code == 401
    assert browser.get("/v1/session", headers={"Cookie": f"{COOKIE}={secrets['viewer']}"}).status_code == 401
    lines = client.get("/v1/audit").json()["items"]
    assert lines[0]["action"] == "session.begin"
    assert token not in str(lines)
