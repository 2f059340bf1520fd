"""The write side of the OCI distribution API: blobs and manifests into one repository.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md#push. A blob that the registry has already is not sent again, so a
push that was broken off goes on where it was. What was pushed is read back by its tag and compared.
"""

from __future__ import annotations

import time
import urllib.parse
from typing import Callable, Mapping

from gha_apptainer.domain.errors import ImageFailed
from gha_apptainer.domain.image_plans import Login
from gha_apptainer.node import http
from gha_apptainer.node.images.registry_client import Blob, RegistryClient, digest_of

_PASSED = ("content-type", "accept")


class RegistryWriter(RegistryClient):
    """A client that may write. A login that is refused is an error here: nobody pushes as nobody by mistake."""

    def has(self, blob: Blob) -> bool:
        """Whether the registry holds a blob."""
        answer = self._request("HEAD", "%s/blobs/%s" % (self._base, blob.digest))
        if answer.status == 200:
            return True
        if answer.status == 404:
            return False
        raise self._refused(answer)

    def put_blob(self, blob: Blob, *, path: str = "", data: bytes = b"", progress: Callable[[int], None] = http.uncounted) -> bool:
        """Send a blob unless it is there; tells whether it was sent. Tried three times; each try looks first. Raises ImageFailed."""
        attempt = 0
        while True:
            if self.has(blob):
                return attempt > 0
            try:
                answer = self._send_blob(blob, path, data, progress)
                if answer.status == 201:
                    return True
                failure = self._refused(answer)
                if answer.status == 401 and "www-authenticate" in answer.headers:  # a token that has run out
                    self._authorize(answer)
                elif answer.status not in http.PASSING and answer.status != 404:  # 404: the upload was forgotten meanwhile
                    raise failure
            except http.Unreachable as error:
                failure = self._unreached(error)
                if error.final:
                    raise failure from error
            attempt += 1
            if attempt >= self._retry.tries:
                raise failure
            pause = self._retry.pause(attempt - 1)
            self._tell("%s; trying again in %.0f s (%d of %d)" % (failure.what, pause, attempt + 1, self._retry.tries))
            time.sleep(pause)

    def put_manifest(self, data: bytes, kind: str) -> str:
        """Publish a manifest under the reference's tag; gives its digest, read back from the registry. Raises ImageFailed."""
        digest = digest_of(data)
        answer = self._request("PUT", "%s/manifests/%s" % (self._base, self._ref.tag), {"Content-Type": kind}, body=data)
        if answer.status not in (200, 201):
            raise self._refused(answer)
        back = self._request("GET", "%s/manifests/%s" % (self._base, self._ref.tag), {"Accept": kind})
        if back.status != 200:
            raise self._refused(back)
        if digest_of(back.body) != digest:
            raise self._failed(
                "what was pushed as %s reads back as %s" % (digest, digest_of(back.body)), "somebody else pushed that tag now"
            )
        return digest

    def _send_blob(self, blob: Blob, path: str, data: bytes, progress: Callable[[int], None]) -> http.Answer:
        begun = self._request("POST", "%s/blobs/uploads/" % self._base)
        if begun.status != 202:
            return begun
        place = urllib.parse.urljoin(begun.url, begun.headers.get("location", ""))
        parts = urllib.parse.urlsplit(place)
        if parts.scheme != "https" and not (parts.scheme == "http" and self._plain_http):
            raise self._failed("it sends us to %r with the content, which is no https address" % place, "a misconfigured registry")
        query = "%s%sdigest=%s" % (parts.query, "&" if parts.query else "", urllib.parse.quote(blob.digest, safe=""))
        url = urllib.parse.urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))
        ours = http.origin(url) == http.origin(self._base)
        return http.send(
            "PUT", url, body=data, path=path, headers={"Content-Type": "application/octet-stream"},
            authorization=self._authorization if ours else "", retry=http.NO_RETRY, progress=progress,
        )  # fmt: skip

    def _request(self, method: str, url: str, headers: Mapping[str, str] = {}, body: bytes = b"") -> http.Answer:
        answer = self._call(method, url, headers, body)
        if answer.status in (401, 403) and "www-authenticate" in answer.headers:
            self._authorize(answer)
            if self._authorization:
                answer = self._call(method, url, headers, body)
        return answer

    def _call(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> http.Answer:
        if method == "GET":
            return self._fetch(url, headers, self._authorization)
        try:
            return http.send(method, url, body=body, headers=headers, authorization=self._authorization, retry=self._retry, tell=self._tell)
        except http.Unreachable as error:
            raise self._unreached(error) from error

    def _drop_login(self, login: Login, status: int) -> None:
        raise self._failed("it refuses the login of %r (%d)" % (login.username, status), "a wrong password, or no right to push")

    def _refused(self, answer: http.Answer) -> ImageFailed:
        failure = super()._refused(answer)
        if answer.status in (401, 403):
            failure.cause = "no login was given, or it may not push there"
            failure.remedy = "name a file of logins by --authfile, or by GHA_APPTAINER_AUTHFILE"
        return failure
