"""A real registry on 127.0.0.1 for tests, a front that counts and breaks what passes, and images made by hand.

The registry is Debian's docker-registry, unpacked once into the user's cache. `local_registry` gives it with its front: images are
pushed to the registry itself and pulled through `local_registry.address`, so every request of a pull is in `local_registry.requests`.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import http.server
import io
import json
import os
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gha_apptainer.domain.errors import GhaError
from gha_apptainer.domain.places import cache_directory
from gha_apptainer.node.provision.debian import PrivateApt, host_sources, unpack
from gha_apptainer.node.provision.staging import publish, staged

START_LIMIT = 30.0
Answer = tuple[int, Mapping[str, str], bytes]
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG = "application/vnd.oci.image.config.v1+json"
USER, PASSWORD = "carol", "s3cret"
_HTPASSWD = "%s:$2b$10$Fpq7wQJpWFyBxzEGy3/0XeCgIGUemyX7EdrHG6FBVanULoHyrwF9.\n" % USER
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
HERE = _ARCHITECTURES.get(os.uname().machine, os.uname().machine)


def registry_program() -> str:
    """Debian's docker-registry, unpacked in the user's cache; raises GhaError where it cannot be had."""
    place = os.path.join(cache_directory(os.environ) or "/nonexistent", "docker-registry-%s" % os.uname().machine)
    program = os.path.join(place, "usr", "bin", "docker-registry")
    if not os.access(program, os.X_OK):
        with staged(place) as work:
            apt = PrivateApt(work, host_sources(os.environ), os.environ, print)
            apt.update()
            made = os.path.join(work, "tree")
            os.mkdir(made)
            for package in apt.download(("docker-registry",)):
                unpack(package, made)
            publish(made, place)
    return program


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Entry:
    """One member of a layer; `data` None is a directory."""

    data: bytes | None = None
    mode: int = 0o755
    uid: int = 0
    gid: int = 0


def layer(entries: Mapping[str, Entry]) -> bytes:
    """An uncompressed layer; names without a leading ./ ."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name, entry in entries.items():
            member = tarfile.TarInfo(name)
            member.mode, member.uid, member.gid = entry.mode, entry.uid, entry.gid
            member.type = tarfile.DIRTYPE if entry.data is None else tarfile.REGTYPE
            member.size = len(entry.data or b"")
            archive.addfile(member, io.BytesIO(entry.data or b""))
    return raw.getvalue()


def tree(marker: str = "first", weight: int = 0) -> Mapping[str, Entry]:
    """A small image: a marker file, owners and modes that unpacking may get wrong, and `weight` bytes that do not compress."""
    found = {
        "bin": Entry(),
        "etc": Entry(),
        "etc/marker": Entry(marker.encode(), 0o644),
        "etc/shadow": Entry(b"root:*:1::::::\n", 0o640, 0, 42),
        "closed": Entry(mode=0o500),
        "closed/file": Entry(b"x", 0o000, 5, 60),
        "opt": Entry(),
        "opt/setuid": Entry(b"#!/bin/sh\n", 0o4755),
        "tmp": Entry(mode=0o1777),
    }
    if weight:
        found["opt/weight"] = Entry(os.urandom(weight), 0o644)
    return found


@dataclass(frozen=True)
class Made:
    """A pushed image: digests of its manifest and configuration, and all blobs by digest."""

    manifest: str
    config: str
    layers: tuple[str, ...]
    index: str = ""


class Registry:
    """One running docker-registry; push talks to it, pulls go through the front at `address`."""

    def __init__(self, directory: Path, *, login: bool = False) -> None:
        self._directory = directory
        self._login = login
        self.log = directory / "registry.log"
        self.port = _free_port()
        self.requests: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.answer: Callable[[str, Mapping[str, str]], Answer | None] = lambda _path, _headers: None
        """Set it to answer a GET instead of the registry: status, headers, body; None passes it on."""
        self.writes: list[str] = []
        self.answer_write: Callable[[str, str, Mapping[str, str]], Answer | None] = lambda _method, _path, _headers: None
        """Set it to answer a POST or PUT instead of the registry: method, path, headers; it may wait."""
        self.spoil: Callable[[str, bytes], bytes] = lambda _path, body: body
        """Set it to alter a body on its way."""
        self._child: subprocess.Popen[bytes] | None = None
        self._front: http.server.ThreadingHTTPServer | None = None

    @property
    def address(self) -> str:
        """host:port of the front, as an image reference spells it."""
        assert self._front is not None
        return "127.0.0.1:%d" % self._front.server_address[1]

    def count(self, part: str) -> int:
        """How many GETs so far had `part` in their path."""
        return sum(part in path for path in self.requests)

    def start(self) -> None:
        program = registry_program()
        text = "version: 0.1\nlog: {level: warn}\nstorage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}\n" % json.dumps(
            str(self._directory / "data")
        )
        text += "http: {addr: '127.0.0.1:%d'}\n" % self.port
        if self._login:
            (self._directory / "htpasswd").write_text(_HTPASSWD)
            text += "auth: {htpasswd: {realm: test, path: %s}}\n" % json.dumps(str(self._directory / "htpasswd"))
        (self._directory / "config.yml").write_text(text)
        with self.log.open("wb") as log:
            self._child = subprocess.Popen(
                [program, "serve", str(self._directory / "config.yml")], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={"PATH": "/usr/bin:/bin", "HOME": str(self._directory), "OTEL_TRACES_EXPORTER": "none"},
            )  # fmt: skip
        deadline = time.monotonic() + START_LIMIT
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline or self._child.poll() is not None:
                    self.stop()
                    raise RuntimeError("the registry does not start: %s" % self.log.read_text(errors="replace")) from None
                time.sleep(0.05)
        self._front = _Front(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._front.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        if self._front is not None:
            self._front.shutdown()
            self._front.server_close()
        if self._child is not None:
            self._child.terminate()
            self._child.wait(START_LIMIT)

    def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """One request to the registry itself."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            sent = dict(headers or {})
            if not sent.get("authorization", "x"):
                del sent["authorization"]
            elif self._login and not {"Authorization", "authorization"} & set(sent) and method not in ("GET", "HEAD"):
                sent["Authorization"] = "Basic Y2Fyb2w6czNjcmV0"
            connection.request(method, path, body or None, sent)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def push_blob(self, repository: str, data: bytes) -> dict[str, Any]:
        status, headers, body = self.ask("POST", "/v2/%s/blobs/uploads/" % repository)
        assert status == 202, (status, body)
        place = headers["location"].split(":%d" % self.port, 1)[-1]
        url = "%s%sdigest=%s" % (place, "&" if "?" in place else "?", digest(data))
        status, _, body = self.ask("PUT", url, data, {"Content-Type": "application/octet-stream"})
        assert status == 201, (status, body)
        return {"digest": digest(data), "size": len(data)}

    def push_manifest(self, repository: str, tag: str, document: Mapping[str, Any]) -> dict[str, Any]:
        data = json.dumps(document).encode()
        place = "/v2/%s/manifests/%s" % (repository, tag or digest(data))
        status, _, body = self.ask("PUT", place, data, {"Content-Type": document["mediaType"]})
        assert status == 201, (status, body)
        return {"mediaType": document["mediaType"], "digest": digest(data), "size": len(data)}

    def push(
        self, repository: str, tag: str, entries: Mapping[str, Entry], config: Mapping[str, Any] | None = None, architecture: str = HERE
    ) -> Made:
        """An image of one layer under `tag` (empty: by digest only)."""
        raw = layer(entries)
        packed = {"mediaType": LAYER, **self.push_blob(repository, gzip.compress(raw, 1, mtime=0))}
        rootfs = {"type": "layers", "diff_ids": [digest(raw)]}
        text = {"architecture": architecture, "os": "linux", "config": dict(config or {}), "rootfs": rootfs}
        described = {"mediaType": CONFIG, **self.push_blob(repository, json.dumps(text).encode())}
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": described, "layers": [packed]}
        pushed = self.push_manifest(repository, tag, manifest)
        return Made(pushed["digest"], described["digest"], (packed["digest"],))

    def push_index(self, repository: str, tag: str, images: Sequence[tuple[str, Made]]) -> str:
        """An index of images by architecture, as multi-platform tags are; gives its digest."""
        rows = []
        for architecture, made in images:
            size = len(self.ask("GET", "/v2/%s/manifests/%s" % (repository, made.manifest), headers={"Accept": MANIFEST})[2])
            platform = {"os": "linux", "architecture": architecture}
            rows.append({"mediaType": MANIFEST, "digest": made.manifest, "size": size, "platform": platform})
        return str(self.push_manifest(repository, tag, {"schemaVersion": 2, "mediaType": INDEX, "manifests": rows})["digest"])

    def push_sif(self, repository: str, tag: str, path: Path) -> str:
        """A SIF file as an artifact, as `apptainer push oras://` makes them; gives the manifest's digest."""
        empty = {"mediaType": "application/vnd.sylabs.sif.config.v1+json", **self.push_blob(repository, b"{}")}
        packed = {"mediaType": "application/vnd.sylabs.sif.layer.v1.sif", **self.push_blob(repository, path.read_bytes())}
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": empty, "layers": [packed]}
        return str(self.push_manifest(repository, tag, manifest)["digest"])


class _Front(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no news here."""


def _handler(registry: Registry) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            registry.requests.append(self.path)
            registry.headers.append(headers)
            own = registry.answer(self.path, headers)
            if own is None:
                passed = {name: headers[name] for name in ("accept", "authorization") if name in headers}
                status, back, body = registry.ask("GET", self.path, headers=passed)
                body = registry.spoil(self.path, body)
            else:
                status, back, body = own
            self.send_response(status)
            for name, value in back.items():
                if name not in ("content-length", "connection", "date", "transfer-encoding"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self._write("POST")

        def do_PUT(self) -> None:
            self._write("PUT")

        def _write(self, method: str) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            registry.writes.append("%s %s" % (method, self.path))
            body = self.rfile.read(int(headers.get("content-length", "0")))
            own = registry.answer_write(method, self.path, headers)
            if own is None:
                passed = {name: headers[name] for name in ("content-type", "authorization", "host") if name in headers}
                passed.setdefault("authorization", "")
                own = registry.ask(
                    method, self.path, body, {name: value for name, value in passed.items() if value or name == "authorization"}
                )
            status, back, text = own
            self.send_response(status)
            for name, value in back.items():
                if name not in ("content-length", "connection", "date", "transfer-encoding"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_HEAD(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            passed = {name: headers[name] for name in ("accept", "authorization") if name in headers}
            status, back, _ = registry.ask("HEAD", self.path, headers=passed)
            self.send_response(status)
            for name, value in back.items():
                if name not in ("connection", "date"):
                    self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """The list of requests is log enough."""

    return Handler


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class _Started:
    registries: list[Registry] = field(default_factory=list)


@pytest.fixture
def make_registry(tmp_path: Path) -> Iterator[Callable[..., Registry]]:
    """Start as many registries as wanted: make_registry(login=True)."""
    started = _Started()

    def make(*, login: bool = False) -> Registry:
        place = tmp_path / ("registry%d" % len(started.registries))
        place.mkdir()
        registry = Registry(place, login=login)
        try:
            registry.start()
        except GhaError as error:
            pytest.skip("no local registry: %s" % error.what)
        started.registries.append(registry)
        return registry

    try:
        yield make
    finally:
        for registry in started.registries:
            registry.stop()


@pytest.fixture
def local_registry(make_registry: Callable[..., Registry]) -> Registry:
    """A running registry without login."""
    return make_registry()
