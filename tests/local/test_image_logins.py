"""Tokens and logins against doubles of token services: what is sent where, and what happens when it is refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pulling import Puller
from registries import Answer, Made, Registry, tree

from gha_apptainer.domain.errors import InputError
from gha_apptainer.domain.image_plans import Login
from gha_apptainer.domain.image_refs import parse
from gha_apptainer.domain.secrets import Secret
from gha_apptainer.node.images.credentials import read_login, write_authfile


class TokenService:
    """A bearer-token face before the registry; `good` users get a full token, nobody gets an anonymous one unless `public`."""

    def __init__(self, registry: Registry, *, public: bool, good: str = "") -> None:
        self.registry = registry
        self.public = public
        self.good = "Basic " + base64.b64encode(good.encode()).decode() if good else "-"
        self.asked: list[str] = []
        registry.answer = self.answer

    def answer(self, path: str, headers: Mapping[str, str]) -> Answer | None:
        sent = headers.get("authorization", "")
        if path.startswith("/token"):
            self.asked.append((sent and "login") or "anonymous")
            if sent == self.good or (not sent and self.public):
                return 200, {"content-type": "application/json"}, json.dumps({"access_token": "token-1"}).encode()
            return 401, {}, b'{"errors":[{"message":"incorrect username or password"}]}'
        if sent == "Bearer token-1":
            return None
        challenge = 'Bearer realm="http://%s/token",service="s",scope="repository:team/tool:pull"' % self.registry.address
        return 401, {"www-authenticate": challenge}, b"{}"


@pytest.fixture
def made(puller: Puller, local_registry: Registry) -> Made:
    puller.http = (local_registry.address,)
    return local_registry.push("team/tool", "1", tree())


def _pull(puller: Puller, registry: Registry, login: str) -> Any:
    return puller.run("found = attempt(lambda: pull('%s/team/tool:1', login=%s))\nanswer([found, said])" % (registry.address, login))


def test_public_image_by_anonymous_token(puller: Puller, local_registry: Registry, made: Made) -> None:
    service = TokenService(local_registry, public=True)
    assert _pull(puller, local_registry, "None")[0]["digest"]["text"] == made.manifest
    assert set(service.asked) == {"anonymous"}


def test_private_image_by_login(puller: Puller, local_registry: Registry, made: Made) -> None:
    TokenService(local_registry, public=False, good="carol:pw")
    assert _pull(puller, local_registry, "('carol', 'pw')")[0]["digest"]["text"] == made.manifest
    refused = str(_pull(puller, local_registry, "None")[0])
    assert made.manifest in refused, "the store has it by now"


def test_refused_login_is_told_and_tried_without(puller: Puller, local_registry: Registry, made: Made) -> None:
    service = TokenService(local_registry, public=True, good="carol:pw")
    found, said = _pull(puller, local_registry, "('carol', 'expired-pw')")
    assert found["digest"]["text"] == made.manifest
    assert "login" in service.asked
    assert [line for line in said if "refuses the login of 'carol'" in line]
    assert "expired-pw" not in json.dumps([found, said])
    assert list(puller.state.rglob("auth.json")) == []


def test_refused_everywhere_is_an_error_with_the_registrys_words(puller: Puller, local_registry: Registry, made: Made) -> None:
    TokenService(local_registry, public=False)
    found, _ = _pull(puller, local_registry, "('carol', 'expired-pw')")
    assert found["error"] == "ImageFailed"
    for part in (local_registry.address, "team/tool:1", "401", "incorrect username or password"):
        assert part in found["text"]
    assert "expired-pw" not in found["text"]


def test_token_service_without_https_gets_no_password(puller: Puller, local_registry: Registry, made: Made) -> None:
    seen: list[str] = []

    def answer(path: str, headers: Mapping[str, str]) -> Answer | None:
        seen.append(headers.get("authorization", ""))
        return 401, {"www-authenticate": 'Bearer realm="file:///etc/passwd",service="s"'}, b"{}"

    local_registry.answer = answer
    found, _ = _pull(puller, local_registry, "('carol', 'pw')")
    assert "no https address" in found["text"]
    assert set(seen) == {""}


def test_login_file_is_read_for_its_registry_only(tmp_path: Path) -> None:
    path = tmp_path / "auth.json"
    auth = base64.b64encode(b"carol:a:b").decode()
    auths = {"ghcr.io": {"auth": auth}, "https://index.docker.io/v1/": {"auth": auth}, "broken.io": {"auth": "%"}}
    path.write_text(json.dumps({"auths": auths}))
    found = read_login(str(path), parse("ghcr.io/a/b"))
    assert found is not None
    assert (found.username, found.password.reveal()) == ("carol", "a:b")
    assert read_login(str(path), parse("ubuntu")) == found
    assert read_login(str(path), parse("other.io/a/b")) is None
    assert read_login(str(path), parse("/x.sif")) is None
    with pytest.raises(InputError, match=r"broken\.io"):
        read_login(str(path), parse("broken.io/a/b"))
    path.write_text("{")
    with pytest.raises(InputError, match=r"auth\.json"):
        read_login(str(path), parse("ghcr.io/a/b"))


def test_written_login_is_private_and_read_back(tmp_path: Path) -> None:
    login = Login("carol", Secret("pä:ss"))
    for name in ("ghcr.io/a/b", "ubuntu"):
        path = Path(write_authfile(str(tmp_path), parse(name), login))
        assert path.stat().st_mode & 0o777 == 0o600
        assert read_login(str(path), parse(name)) == login
        path.unlink()
