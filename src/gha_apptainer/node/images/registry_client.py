"""The read side of the OCI distribution API: a reference to a digest, its configuration, its blobs.

https://github.com/opencontainers/distribution-spec; tokens as https://distribution.github.io/distribution/spec/auth/token/ says.
A digest is what we computed over the bytes that came, never what a header says.
"""

from __future__ import annotations

import base64
import hashlib
import re
import urllib.parse
from typing import Callable, Dict, List, Mapping, Optional, Tuple

from gha_apptainer.domain.errors import ImageFailed, Untrusted
from gha_apptainer.domain.image_plans import Login
from gha_apptainer.domain.image_refs import DOCKER_HUB, ImageRef
from gha_apptainer.domain.oci_configs import load_object, platform_of
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node import http
from gha_apptainer.node.images.platforms import Platform

INDEX_TYPES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFEST_TYPES = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
SIF_LAYER = "application/vnd.sylabs.sif.layer.v1.sif"
_ACCEPT = ", ".join((*INDEX_TYPES, *MANIFEST_TYPES))
_HUB_HOST = "registry-1.docker.io"
_CHALLENGE = re.compile(
    r"(?:^|,)\s*(?P<scheme>[A-Za-z][A-Za-z0-9-]*)\s+(?=[A-Za-z_]+=)"
    r'|(?P<key>[A-Za-z_]+)=(?:"(?P<quoted>[^"]*)"|(?P<bare>[^",\s]+))'
)
_ALTERED = "a damaged registry store or a proxy that alters what it passes"


@dataclass(frozen=True)
class Blob:
    """A blob's digest, size in bytes and media type."""

    digest: str
    size: int
    media_type: str


@dataclass(frozen=True)
class Resolved:
    """What a reference is in its registry now, for one platform. `index` is empty where the reference names a manifest itself."""

    digest: str
    index: str
    config: Blob
    layers: Tuple[Blob, ...]

    @property
    def size(self) -> int:
        """Bytes of all layers as they are transferred."""
        return sum(layer.size for layer in self.layers)

    @property
    def sif(self) -> Optional[Blob]:
        """The SIF file, where the artifact is one."""
        return self.layers[0] if len(self.layers) == 1 and self.layers[0].media_type == SIF_LAYER else None


class RegistryClient:
    """One repository of one registry. `login` is tried first; where it is refused, once more without. `anonymous` tells which it was."""

    def __init__(
        self,
        ref: ImageRef,
        *,
        plain_http: bool,
        login: Optional[Login] = None,
        tell: Callable[[str], None] = http.silent,
        retry: http.Retry = http.USUAL,
    ) -> None:
        self._ref = ref
        host = _HUB_HOST if ref.registry == DOCKER_HUB else ref.registry
        self._base = "%s://%s/v2/%s" % ("http" if plain_http else "https", host, ref.repository)
        self._plain_http = plain_http
        self._login = login
        self._tell = tell
        self._retry = retry
        self._authorization = ""

    @property
    def anonymous(self) -> bool:
        """Whether requests go without the login: none was given, or the registry refused it."""
        return self._login is None

    def resolve(self, platform: Platform) -> Resolved:
        """The manifest for `platform`. Raises ImageFailed naming image, registry and reason."""
        data, kind = self._manifest(self._ref.selector)
        digest = digest_of(data)
        if self._ref.digest and digest != self._ref.digest:
            raise self._failed("the registry sent content with digest %s" % digest, _ALTERED)
        raw = self._object(data)
        if kind in INDEX_TYPES or "manifests" in raw:
            index, digest = digest, self._choose(raw, platform)
            data, kind = self._manifest(digest)
            if digest_of(data) != digest:
                raise self._failed("the registry sent content with digest %s for manifest %s" % (digest_of(data), digest), _ALTERED)
            raw = self._object(data)
        else:
            index = ""
        if "config" not in raw or "layers" not in raw:
            unread = "its manifest is of a form that we do not read (%s)" % (kind or "no media type")
            raise self._failed(unread, "a very old (schema 1) or unusual image")
        layers = raw["layers"]
        if not isinstance(layers, list) or not layers:
            raise self._failed("its manifest names no layers", "")
        return Resolved(digest, index, self._blob(raw["config"]), tuple(self._blob(layer) for layer in layers))

    def config(self, found: Resolved, platform: Platform) -> bytes:
        """The image's configuration, checked to be for `platform`."""
        data = self.blob(found.config.digest)
        if found.sif is None:
            system, architecture, _ = platform_of(data)
            if (system or platform.os, architecture or platform.architecture) != (platform.os, platform.architecture):
                unfit = "it is for %s/%s, this machine is %s" % (system, architecture, platform)
                raise self._failed(unfit, "", "use an image that is built for %s" % platform)
        return data

    def blob(self, digest: str) -> bytes:
        """A small blob by its digest. Raises ImageFailed."""
        answer = self._get("blobs/" + digest, "*/*")
        if digest_of(answer.body) != digest:
            raise self._failed("the registry sent a blob with digest %s" % digest_of(answer.body), _ALTERED)
        return answer.body

    def download(self, blob: Blob, path: str, progress: Callable[[int], None]) -> None:
        """A blob into a file, digest and size checked."""
        answer = self._download(blob, path, progress)
        if answer.status == 401 and "www-authenticate" in answer.headers:  # a token that has run out
            self._authorize(answer)
            answer = self._download(blob, path, progress)
        if answer.status != 200:
            raise self._refused(answer)

    def _download(self, blob: Blob, path: str, progress: Callable[[int], None]) -> http.Answer:
        url = "%s/blobs/%s" % (self._base, blob.digest)
        try:
            return http.download(
                url, path, sha256=blob.digest.partition(":")[2], size=blob.size, authorization=self._authorization,
                retry=self._retry, tell=self._tell, progress=progress,
            )  # fmt: skip
        except http.Unreachable as error:
            raise self._unreached(error) from error

    def _manifest(self, selector: str) -> Tuple[bytes, str]:
        answer = self._get("manifests/" + selector, _ACCEPT)
        return answer.body, answer.headers.get("content-type", "").partition(";")[0].strip()

    def _get(self, path: str, accept: str) -> http.Answer:
        """One GET with whatever it takes: a challenge is answered once with the login and once without."""
        answer = self._once(path, accept)
        if answer.status in (401, 403) and "www-authenticate" in answer.headers:
            self._authorize(answer)
            if self._authorization:
                answer = self._once(path, accept)
        if answer.status in (401, 403) and self._login is not None:
            self._drop_login(self._login, answer.status)
            return self._get(path, accept)
        if answer.status != 200:
            raise self._refused(answer)
        return answer

    def _once(self, path: str, accept: str) -> http.Answer:
        return self._fetch("%s/%s" % (self._base, path), {"Accept": accept}, self._authorization)

    def _fetch(self, url: str, headers: Mapping[str, str], authorization: str) -> http.Answer:
        try:
            return http.get(url, headers=headers, authorization=authorization, retry=self._retry, tell=self._tell)
        except http.Unreachable as error:
            raise self._unreached(error) from error

    def _unreached(self, error: http.Unreachable) -> ImageFailed:
        what = "%s: registry %s was not reached: %s" % (self._ref, self._ref.registry, error.what)
        return ImageFailed(what, cause=error.cause, remedy=error.remedy)

    def _authorize(self, answer: http.Answer) -> None:
        """Set the authorization that the challenge in `answer` asks for; empty where there is none to give."""
        challenges = parse_challenges(answer.headers["www-authenticate"])
        if "bearer" in challenges:
            self._authorization = self._token(challenges["bearer"])
        elif "basic" in challenges and self._login is not None:
            self._authorization = _basic(self._login)

    def _token(self, challenge: Mapping[str, str]) -> str:
        realm = challenge.get("realm", "")
        scheme = urllib.parse.urlsplit(realm).scheme
        if scheme not in ("https", "http") or (scheme == "http" and not self._plain_http):
            raise self._failed("it sends us to %r for a token, which is no https address" % realm, "a misconfigured registry")
        query = {"scope": challenge.get("scope") or "repository:%s:pull" % self._ref.repository}
        if "service" in challenge:
            query["service"] = challenge["service"]
        url = "%s%s%s" % (realm, "&" if "?" in realm else "?", urllib.parse.urlencode(query))
        answer = self._fetch(url, {}, _basic(self._login) if self._login else "")
        if answer.status in (401, 403) and self._login is not None:
            self._drop_login(self._login, answer.status)
            return self._token(challenge)
        if answer.status != 200:
            raise self._refused(answer)
        raw = load_object(answer.body, "the token answer of %s" % http.host_of(realm))
        token = raw.get("token") or raw.get("access_token")
        if not isinstance(token, str):
            raise self._failed("%s gave no token" % http.host_of(realm), "a misconfigured registry")
        return "Bearer " + token

    def _drop_login(self, login: Login, status: int) -> None:
        self._tell("%s: %s refuses the login of %r (%d), trying without" % (self._ref, self._ref.registry, login.username, status))
        self._login, self._authorization = None, ""

    def _object(self, data: bytes) -> Mapping[str, object]:
        try:
            return load_object(data, "its manifest")
        except Untrusted as error:
            raise self._failed(error.what, "a proxy or login page answers in the registry's place") from error

    def _blob(self, raw: object) -> Blob:
        if isinstance(raw, dict):
            digest, size, kind = raw.get("digest"), raw.get("size"), raw.get("mediaType", "")
            named = isinstance(digest, str) and re.fullmatch("sha256:[0-9a-f]{64}", digest)
            if isinstance(digest, str) and named and type(size) is int and size >= 0 and isinstance(kind, str):
                return Blob(digest, size, kind)
        raise self._failed("its manifest holds a descriptor that is none", "a damaged or forged manifest")

    def _choose(self, raw: Mapping[str, object], platform: Platform) -> str:
        offers: List[Tuple[Platform, str]] = []
        entries = raw.get("manifests")
        for entry in entries if isinstance(entries, list) else []:
            told = entry.get("platform") if isinstance(entry, dict) else None
            if isinstance(told, dict):
                offer = Platform(str(told.get("os", "")), str(told.get("architecture", "")), str(told.get("variant", "")))
                offers.append((offer, self._blob(entry).digest))
            elif isinstance(entry, dict) and isinstance(entries, list) and len(entries) == 1:
                return self._blob(entry).digest
        found = platform.best(tuple(offer for offer, _ in offers))
        if found is None:
            there = ", ".join(sorted({str(offer) for offer, _ in offers if offer.os != "unknown"})) or "none"
            remedy = "use an image that is built for %s" % platform
            raise self._failed("it has nothing for %s" % platform, "it is built for: %s" % there, remedy)
        return next(digest for offer, digest in offers if offer is found)

    def _failed(self, why: str, cause: str, remedy: str = "") -> ImageFailed:
        return ImageFailed("%s from registry %s: %s" % (self._ref, self._ref.registry, why), cause=cause, remedy=remedy)

    def _refused(self, answer: http.Answer) -> ImageFailed:
        """The error for a status, with the registry's own words."""
        status = answer.status
        if status == 401 or status == 403:
            return self._failed(
                "access refused (%d%s)" % (status, _message(answer.body)),
                "it is private, it does not exist (some registries answer so), or the login is wrong",
                "check the name; give username and password of somebody who may read it",
            )
        if status == 404:
            what = "not found (404%s)" % _message(answer.body)
            return self._failed(what, "no such repository or tag there", "check the name and the tag")
        if status == 429:
            what = "too many requests (429%s)" % _message(answer.body)
            return self._failed(what, "its rate limit", "log in, wait, or use a mirror or the store")
        return self._failed("it answers %d%s" % (status, _message(answer.body)), "the registry's own trouble" if status >= 500 else "")


def digest_of(data: bytes) -> str:
    """The digest of some bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _basic(login: Login) -> str:
    pair = "%s:%s" % (login.username, login.password.reveal())
    return "Basic " + base64.b64encode(pair.encode("utf-8", "surrogateescape")).decode("ascii")


def _message(body: bytes) -> str:
    """The first error of a registry's error document, for people; empty where there is none."""
    try:
        errors = load_object(body, "").get("errors")
    except Untrusted:
        return ""
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):
        text = errors[0].get("message") or errors[0].get("code") or ""
        return ", %s" % "".join(letter for letter in str(text)[:200] if letter.isprintable())
    return ""


def parse_challenges(text: str) -> Mapping[str, Mapping[str, str]]:
    """The challenges of a WWW-Authenticate header by lower-case scheme, each with its parameters."""
    found: Dict[str, Dict[str, str]] = {}
    scheme = ""
    for match in _CHALLENGE.finditer(text):
        if match.group("scheme"):
            scheme = match.group("scheme").lower()
            found.setdefault(scheme, {})
        elif scheme:
            value = match.group("quoted") if match.group("quoted") is not None else match.group("bare")
            found[scheme].setdefault(match.group("key").lower(), value)
    return found
