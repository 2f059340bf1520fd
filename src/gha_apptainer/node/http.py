"""The one way to reach a URL from a node: time limits, retries as a value, proxies of the environment, digests checked.

Answers with an error status are answers; only a server that cannot be reached, or breaks off, raises. Credentials go in
headers that a redirect to another host does not take along, and stand in no message of ours.
"""

from __future__ import annotations

import email.utils
import hashlib
import http.client
import io
import os
import random
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import IO, Callable, Dict, Iterator, Mapping, Optional, Tuple

from gha_apptainer.domain.errors import HostUnfit, ImageFailed, disk_full, is_disk_full
from gha_apptainer.domain.values import dataclass

USER_AGENT = "gha-apptainer"
BODY_LIMIT = 16 << 20
"""The largest answer that is read into memory, in bytes."""

PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Statuses that may pass; every other one is final."""


class Unreachable(HostUnfit):
    """A server could not be reached, or broke off. `reason` is one word for its cause; `final` says that trying again is no use."""

    title = "server not reached"

    def __init__(self, what: str, *, reason: str, final: bool = False, cause: str = "", remedy: str = "") -> None:
        super().__init__(what, cause=cause, remedy=remedy)
        self.reason = reason
        self.final = final


@dataclass(frozen=True)
class Retry:
    """How often and with which pauses to try again what may pass; times in seconds.

    A server's Retry-After wins over the doubling pause; where it is longer than `longest`, the answer is taken as final.
    """

    tries: int = 3
    first: float = 1.0
    longest: float = 60.0

    def pause(self, attempt: int) -> float:
        """How long to wait after the attempt-th failure (0 is the first), with up to a quarter of jitter."""
        return min(self.longest, self.first * 2.0**attempt) * (1 + random.random() / 4)


USUAL = Retry()
"""What may pass is tried three times."""
NO_RETRY = Retry(tries=1)


def silent(_text: str) -> None:
    """Tell nobody."""


def uncounted(_done: int) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class Answer:
    """What a server said. Header names are lower case; `url` is where redirects ended."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to anything less; headers of ours stay where they were unless the origin is the same."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> Optional[urllib.request.Request]:
        if urllib.parse.urlsplit(req.full_url).scheme == "https" and urllib.parse.urlsplit(newurl).scheme != "https":
            raise Unreachable("%s redirects to plain http, which is refused" % host_of(req.full_url), reason="downgrade", final=True)
        found = super().redirect_request(req, fp, code, msg, headers, newurl)
        if found is not None and origin(newurl) == origin(req.full_url):
            for name, value in req.unredirected_hdrs.items():
                if name.lower() == "authorization":
                    found.add_unredirected_header(name, value)
        return found


def origin(url: str) -> Tuple[str, str, int]:
    """Scheme, host and port of a URL."""
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or (443 if parts.scheme == "https" else 80)


def host_of(url: str) -> str:
    """Host and port as the URL spells them, without credentials."""
    return urllib.parse.urlsplit(url).netloc.rpartition("@")[2]


def _opener() -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()  # no file:, ftp: or data: handlers
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def get(
    url: str,
    *,
    headers: Optional[Mapping[str, str]] = None,
    authorization: str = "",
    timeout: float = 30.0,
    retry: Retry = USUAL,
    limit: int = BODY_LIMIT,
    tell: Callable[[str], None] = silent,
) -> Answer:
    """GET a small thing whole. `authorization` is sent to this origin only. Raises Unreachable, or ImageFailed for a body over `limit`."""

    def read(answer: http.client.HTTPResponse) -> bytes:
        data = answer.read(limit + 1)
        if len(data) > limit:
            raise ImageFailed("the answer of %s is larger than %d bytes" % (host_of(url), limit))
        return data

    return _try(url, headers or {}, authorization, timeout, retry, tell, read)


def download(
    url: str,
    path: str,
    *,
    sha256: str,
    size: int = -1,
    headers: Optional[Mapping[str, str]] = None,
    authorization: str = "",
    timeout: float = 60.0,
    retry: Retry = USUAL,
    tell: Callable[[str], None] = silent,
    progress: Callable[[int], None] = uncounted,
) -> Answer:
    """GET into the file `path` and check its digest (64 hexadecimal digits; "" takes whatever comes) and size; the answer's body is empty.

    The file exists only if the status was 200 and the content right. `timeout` limits silence, not the whole. Raises
    Unreachable, DiskFull, or ImageFailed where the content is not what the digest says (tried again: proxies do truncate).
    """

    def store(answer: http.client.HTTPResponse) -> bytes:
        if answer.status != 200:
            return answer.read(BODY_LIMIT)
        found = hashlib.sha256()
        done = 0
        try:
            with open(path, "wb", buffering=0) as handle:
                while not 0 <= size < done:
                    part = answer.read(1 << 20)
                    if not part:
                        break
                    found.update(part)
                    _write(handle, part, path)
                    done += len(part)
                    progress(done)
        except BaseException:
            _unlink(path)
            raise
        if (sha256 and found.hexdigest() != sha256) or (size >= 0 and done != size):
            _unlink(path)
            raise _WrongContent("%d bytes with digest sha256:%s" % (done, found.hexdigest()))
        return b""

    return _try(url, headers or {}, authorization, timeout, retry, tell, store)


def send(
    method: str,
    url: str,
    *,
    body: bytes = b"",
    path: str = "",
    headers: Optional[Mapping[str, str]] = None,
    authorization: str = "",
    timeout: float = 60.0,
    retry: Retry = USUAL,
    tell: Callable[[str], None] = silent,
    progress: Callable[[int], None] = uncounted,
) -> Answer:
    """A request with a body, of memory or of the file `path`; HEAD, POST and PUT. `timeout` limits silence, not the whole.

    Redirects of a request with a body are not followed. Raises Unreachable. A server that answers before it has read everything is heard.
    """

    def make() -> urllib.request.Request:
        data: Optional[_Counted] = None
        if method != "HEAD":
            data = _Counted(path, body, progress)
        sent = {"Content-Length": str(data.size)} if data is not None else {}
        # the file is an iterable of bytes to http.client; its length is told by the header
        return urllib.request.Request(url, data=data, headers={"User-Agent": USER_AGENT, **sent, **(headers or {})}, method=method)  # noqa: S310

    def read(answer: http.client.HTTPResponse) -> bytes:
        return answer.read(BODY_LIMIT)

    return _try(url, {}, authorization, timeout, retry, tell, read, make)


class _Counted:
    """What is sent, in pieces, with its progress."""

    def __init__(self, path: str, body: bytes, progress: Callable[[int], None]) -> None:
        self._path, self._body, self._progress = path, body, progress
        self.size = os.stat(path).st_size if path else len(body)

    def __iter__(self) -> Iterator[bytes]:
        done = 0
        with open(self._path, "rb") if self._path else io.BytesIO(self._body) as source:
            for part in iter(lambda: source.read(1 << 20), b""):
                yield part
                done += len(part)
                self._progress(done)


def _write(handle: IO[bytes], part: bytes, path: str) -> None:
    try:
        view = memoryview(part)
        while view:
            view = view[handle.write(view) :]
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(error, path) from error
        raise ImageFailed("cannot write %s: %s" % (path, error.strerror)) from error


class _WrongContent(Exception):
    """What came is not what the digest promised."""


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _try(
    url: str,
    headers: Mapping[str, str],
    authorization: str,
    timeout: float,
    retry: Retry,
    tell: Callable[[str], None],
    consume: Callable[[http.client.HTTPResponse], bytes],
    make: Optional[Callable[[], urllib.request.Request]] = None,
) -> Answer:
    attempt = 0
    while True:
        last = attempt + 1 >= retry.tries
        try:
            answer = _once(url, headers, authorization, timeout, consume, make)
            pause = _retry_after(answer.headers, retry.pause(attempt))
            if answer.status not in PASSING or last or pause > retry.longest * 1.25:
                return answer
            why = "%s answers %d" % (host_of(url), answer.status)
        except _WrongContent as error:
            if last:
                raise ImageFailed(
                    "%s sent something else than was asked for: %s" % (host_of(url), error),
                    cause="a damaged registry store or a proxy that alters what it passes",
                ) from error
            pause, why = retry.pause(attempt), "%s sent damaged data" % host_of(url)
        except Unreachable as error:
            if last or error.final:
                raise
            pause, why = retry.pause(attempt), error.what
        attempt += 1
        tell("%s; trying again in %.0f s (%d of %d)" % (why, pause, attempt + 1, retry.tries))
        time.sleep(pause)


def _once(
    url: str,
    headers: Mapping[str, str],
    authorization: str,
    timeout: float,
    consume: Callable[[http.client.HTTPResponse], bytes],
    make: Optional[Callable[[], urllib.request.Request]] = None,
) -> Answer:
    if origin(url)[0] not in ("http", "https"):
        raise Unreachable("%s: not a usable address" % host_of(url), reason="address", final=True)
    if make is not None:
        request = make()
    else:
        request = urllib.request.Request(url, headers={"User-Agent": USER_AGENT, **headers})  # noqa: S310 - the scheme is checked above
    if authorization:
        request.add_unredirected_header("Authorization", authorization)
    try:
        try:
            answer = _opener().open(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            body = consume(answer)
            found: Dict[str, str] = {}
            for name, value in answer.headers.items():
                # several challenges may come in several headers
                found[name.lower()] = "%s, %s" % (found[name.lower()], value) if name.lower() in found else value
            return Answer(answer.status, found, body, answer.geturl())
    except urllib.error.URLError as error:
        raise unreachable(url, error.reason if isinstance(error.reason, Exception) else error) from error
    except (OSError, http.client.HTTPException) as error:
        raise unreachable(url, error) from error
    except ValueError as error:  # urllib's word for a malformed URL or redirect
        raise Unreachable("%s: not a usable address" % host_of(url), reason="address", final=True, cause=str(error)) from error


def unreachable(url: str, error: Exception) -> Unreachable:
    """The system's failure as one of ours, with its reason: dns, refused, tls, timeout, network or broken."""
    host = host_of(url)
    if isinstance(error, socket.gaierror):
        return Unreachable(
            "%s: the name is not known here" % host, reason="dns", final=error.errno != socket.EAI_AGAIN, cause=error.strerror or "",
            remedy="check the spelling, DNS on this node, or set https_proxy where the network is only reached through a proxy",
        )  # fmt: skip
    if isinstance(error, ssl.SSLCertVerificationError):
        return Unreachable(
            "%s: its certificate is not accepted (%s)" % (host, error.verify_message), reason="tls", final=True,
            remedy="point SSL_CERT_FILE at the authority that signed it",
        )  # fmt: skip
    if isinstance(error, ssl.SSLError):
        return Unreachable(
            "%s: no TLS connection (%s)" % (host, error.reason or error), reason="tls", final=error.reason == "WRONG_VERSION_NUMBER",
            cause="it does not speak https" if error.reason == "WRONG_VERSION_NUMBER" else "",
            remedy="a registry without https must be listed in the setting registries_http",
        )  # fmt: skip
    if isinstance(error, (socket.timeout, TimeoutError)):
        return Unreachable("%s: no answer in time" % host, reason="timeout")
    if isinstance(error, ConnectionRefusedError):
        return Unreachable("%s: connection refused" % host, reason="refused")
    if isinstance(error, OSError) and error.errno is not None:
        return Unreachable("%s: %s" % (host, error.strerror or error), reason="network")
    return Unreachable("%s: the connection broke off (%s)" % (host, str(error) or type(error).__name__), reason="broken")


def changed_at(answer: Answer) -> float:
    """When the server says that the content changed (Last-Modified), in seconds since the epoch; 0 where it does not say."""
    try:
        return max(0.0, email.utils.parsedate_to_datetime(answer.headers.get("last-modified", "")).timestamp())
    except (TypeError, ValueError):
        return 0.0


def _retry_after(headers: Mapping[str, str], usual: float) -> float:
    """Seconds to wait: the server's Retry-After (seconds or a date) if it gives one."""
    text = headers.get("retry-after", "").strip()
    if not text:
        return usual
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return usual
