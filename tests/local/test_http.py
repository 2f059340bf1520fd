"""The one way to reach a URL, against servers on loopback: redirects, credentials, proxies, damaged and broken transfers."""

from __future__ import annotations

import email.utils
import hashlib
import http.server
import socket
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

from gha_apptainer.domain.errors import DiskFull, ImageFailed
from gha_apptainer.node import http as node_http

DATA = bytes(range(256)) * 4096
SHA = hashlib.sha256(DATA).hexdigest()


class Server:
    """Answers by a function; `seen` holds path and headers of each request."""

    def __init__(self) -> None:
        self.seen: List[Tuple[str, Dict[str, str]]] = []
        self.reply: Callable[[str, int], Tuple[int, Dict[str, str], bytes]] = lambda _path, _turn: (200, {}, DATA)
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                status, headers, body = outer.reply(self.path, len(outer.seen))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in headers:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        class Quiet(http.server.ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that went away is what some tests are about."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.url = "http://127.0.0.1:%d" % self._server.server_address[1]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def make_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Server]]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made: List[Server] = []

    def make() -> Server:
        made.append(Server())
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture
def server(make_server: Callable[[], Server]) -> Server:
    return make_server()


FAST = node_http.Retry(tries=3, first=0.0)


def test_credentials_stay_with_their_origin(make_server: Callable[[], Server]) -> None:
    first, second = make_server(), make_server()
    first.reply = lambda path, _turn: (200, {}, b"same") if path == "/same" else (307, {"Location": first.url + "/same"}, b"")
    assert node_http.get(first.url + "/a", authorization="Bearer t").body == b"same"
    assert [headers.get("authorization") for _, headers in first.seen] == ["Bearer t", "Bearer t"]
    first.reply = lambda _path, _turn: (307, {"Location": second.url + "/other"}, b"")
    node_http.get(first.url + "/b", authorization="Bearer t")
    assert [headers.get("authorization") for _, headers in second.seen] == [None]


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_redirect_leads_to_http_only(server: Server, target: str) -> None:
    server.reply = lambda _path, _turn: (302, {"Location": target}, b"")
    try:
        answer = node_http.get(server.url + "/a", retry=FAST)
    except node_http.Unreachable:
        return
    assert answer.status == 302
    assert b"root:" not in answer.body


def test_redirect_from_https_to_http_is_refused() -> None:
    handler = node_http._Redirects()
    asked = urllib.request.Request("https://registry.example/v2/x")
    with pytest.raises(node_http.Unreachable, match="plain http"):
        handler.redirect_request(asked, None, 307, "", None, "http://elsewhere.example/x")  # type: ignore[arg-type]  # unused there


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "nonsense"])
def test_only_http_is_fetched(url: str) -> None:
    with pytest.raises(node_http.Unreachable):
        node_http.get(url)


def test_retry_after_as_date_and_as_seconds(server: Server) -> None:
    told: List[str] = []
    soon = email.utils.formatdate(time.time() - 5, usegmt=True)
    waits = {1: "0", 2: soon}
    server.reply = lambda _path, turn: (429, {"Retry-After": waits[turn]}, b"") if turn in waits else (200, {}, b"ok")
    assert node_http.get(server.url, tell=told.append).body == b"ok"
    assert len(told) == 2
    assert all("trying again" in line and "secret" not in line for line in told)


def test_too_long_a_wait_is_an_answer(server: Server) -> None:
    server.reply = lambda _path, _turn: (503, {"Retry-After": "3600"}, b"")
    assert node_http.get(server.url).status == 503
    assert len(server.seen) == 1


def test_large_answer_is_refused(server: Server) -> None:
    with pytest.raises(ImageFailed, match="larger than"):
        node_http.get(server.url, limit=1000)


def test_download_is_checked_and_counted(server: Server, tmp_path: Path) -> None:
    counts: List[int] = []
    node_http.download(server.url, str(tmp_path / "x"), sha256=SHA, size=len(DATA), progress=counts.append)
    assert (tmp_path / "x").read_bytes() == DATA
    assert counts[-1] == len(DATA)


@pytest.mark.parametrize("body", [DATA[:-1], DATA + b"x", b"", DATA[:-1] + b"?"])
def test_wrong_content_is_tried_again_and_never_kept(server: Server, tmp_path: Path, body: bytes) -> None:
    server.reply = lambda _path, _turn: (200, {}, body)
    with pytest.raises(ImageFailed, match="something else"):
        node_http.download(server.url, str(tmp_path / "x"), sha256=SHA, size=len(DATA), retry=FAST)
    assert len(server.seen) == 3
    assert list(tmp_path.iterdir()) == []
    server.reply = lambda _path, turn: (200, {}, body if turn < 5 else DATA)
    node_http.download(server.url, str(tmp_path / "x"), sha256=SHA, size=len(DATA), retry=FAST)
    assert (tmp_path / "x").read_bytes() == DATA


def test_transfer_that_breaks_off(server: Server, tmp_path: Path) -> None:
    server.reply = lambda _path, turn: (200, {"Content-Length": str(len(DATA))}, DATA[:1000] if turn == 1 else DATA)
    node_http.download(server.url, str(tmp_path / "x"), sha256=SHA, retry=FAST)
    assert len(server.seen) == 2
    assert (tmp_path / "x").read_bytes() == DATA


def test_error_status_leaves_no_file(server: Server, tmp_path: Path) -> None:
    server.reply = lambda _path, _turn: (404, {}, b"gone")
    assert node_http.download(server.url, str(tmp_path / "x"), sha256=SHA).status == 404
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("/dev/full")  # the link goes with the failed download, the device stays
    with pytest.raises(DiskFull, match=str(tmp_path / "x")):
        node_http.download(server.url, str(tmp_path / "x"), sha256=SHA, retry=node_http.NO_RETRY)
    assert list(tmp_path.iterdir()) == []


def test_silent_server_has_a_limit() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(node_http.Unreachable) as caught:
            node_http.get("http://127.0.0.1:%d/" % listener.getsockname()[1], timeout=0.2, retry=node_http.NO_RETRY)
    assert caught.value.reason == "timeout"


def test_https_to_a_plain_server_says_so(server: Server) -> None:
    with pytest.raises(node_http.Unreachable) as caught:
        node_http.get(server.url.replace("http:", "https:"), retry=FAST)
    assert caught.value.reason == "tls"
    assert "registries_http" in caught.value.remedy


def test_proxy_of_the_environment_is_used(make_server: Callable[[], Server], monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = make_server()
    proxy.reply = lambda _path, _turn: (200, {}, b"by proxy")
    monkeypatch.setenv("http_proxy", proxy.url)
    assert node_http.get("http://registry.invalid/v2/").body == b"by proxy"
    assert proxy.seen[0][0] == "http://registry.invalid/v2/"
