"""Image references: what a person writes after `image:`, parsed once to one canonical form.

The grammar of names, tags and digests is that of https://github.com/distribution/reference; a name without a registry is
Docker Hub's, a name of one part there is in `library/`, and a missing tag is `latest`, as Docker has it.
"""

from __future__ import annotations

import os.path

from gha_apptainer.domain.errors import InputError
from gha_apptainer.domain.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Tuple

DOCKER, ORAS, PATH = "docker", "oras", "path"
DOCKER_HUB = "docker.io"
DOCKER_HUB_NAMES = (DOCKER_HUB, "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com", "hub.docker.com")
"""Ways in which people spell Docker Hub; all become `docker.io`."""

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
# compiled when first used, and `re` loaded: a start waits for none that its reference does not need
_REGISTRY = r"(?:%s(?:\.%s)*|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?" % (_LABEL, _LABEL)
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_SHA256 = r"sha256:[0-9a-f]{64}"
_SCHEME = r"([A-Za-z][A-Za-z0-9+.-]*)://"
_NAME_LIMIT = 255
_FORMS = "write NAME[:TAG], REGISTRY/NAME[:TAG][@sha256:DIGEST], docker://…, oras://…, /path/to/image.sif or ./directory"


@dataclass(frozen=True)
class ImageRef:
    """One image reference. `transport` is docker, oras or path; a path has `path` and nothing else.

    `digest` is `sha256:…` or empty; where it is given it alone decides and `tag` is only a note, as with Docker.
    """

    transport: str
    registry: str = ""
    repository: str = ""
    tag: str = ""
    digest: str = ""
    path: str = ""

    @property
    def name(self) -> str:
        """Registry and repository."""
        return "%s/%s" % (self.registry, self.repository)

    @property
    def pinned(self) -> bool:
        """Whether the content is fixed by a digest."""
        return bool(self.digest)

    @property
    def selector(self) -> str:
        """What a registry is asked for: the digest if there is one, else the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        """The canonical form: equal references are equal texts, and parsing it gives the same reference."""
        if self.transport == PATH:
            return self.path
        return "%s://%s%s%s" % (self.transport, self.name, ":" + self.tag if self.tag else "", "@" + self.digest if self.digest else "")


def parse(text: str, cwd: str = "") -> ImageRef:
    """The reference that `text` spells. Raises InputError naming it and what is wrong with it.

    A path is what starts with `/`, `./`, `../` or `file://`, or is a bare name ending in `.sif`; relative ones are taken from `cwd`
    where that is given. A directory in the working directory is never taken for a bare name such as `ubuntu`: a checkout
    must not be able to shadow a registry's image.
    """
    if text != text.strip() or any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        raise _wrong(text, "it holds spaces or control characters at its ends or inside")
    if not text:
        raise _wrong(text, "it is empty")
    if "://" not in text and _looks_like_path(text):
        return _path(text, cwd)
    import re

    scheme = re.match(_SCHEME, text)
    if scheme is None:
        return _path(text, cwd) if _looks_like_path(text) else _remote(DOCKER, text, text)
    kind, rest = scheme.group(1).lower(), text[scheme.end() :]
    if kind in (DOCKER, ORAS):
        return _remote(kind, rest, text)
    if kind == "file":
        if not rest.startswith("/"):
            raise _wrong(text, "file:// must be followed by an absolute path")
        return _path(rest, cwd)
    raise _wrong(text, "%s:// is no kind of image that we read" % kind)


def _wrong(text: str, why: str) -> InputError:
    return InputError("bad image reference %r: %s" % (text, why), remedy=_FORMS)


def _looks_like_path(text: str) -> bool:
    return text in (".", "..") or text.startswith(("/", "./", "../")) or (text.endswith(".sif") and ":" not in text)


def _path(text: str, cwd: str) -> ImageRef:
    found = os.path.normpath(os.path.join(cwd, text))
    return ImageRef(PATH, path=found if found.startswith(("/", "../")) or found == ".." else "./" + found)


def _remote(transport: str, rest: str, whole: str) -> ImageRef:
    import re

    name, at, digest = rest.partition("@")
    if at and not re.fullmatch(_SHA256, digest):
        raise _wrong(whole, "the digest after @ must be sha256: and 64 lower-case hexadecimal digits")
    registry, repository, tag = _split(name)
    if not repository:
        raise _wrong(whole, "the image has no name")
    if registry not in DOCKER_HUB_NAMES and not re.fullmatch(_REGISTRY, registry):
        raise _wrong(whole, "%r is no registry (host or host:port)" % registry)
    if registry in DOCKER_HUB_NAMES:
        registry = DOCKER_HUB
        if "/" not in repository:
            repository = "library/" + repository
    for part in repository.split("/"):
        if not re.fullmatch(_PART, part):
            hint = "names are lower case" if part != part.lower() else "letters, digits and single . _ - between them are allowed"
            raise _wrong(whole, "%r in its name is not valid: %s" % (part, hint))
    if len(registry) + 1 + len(repository) > _NAME_LIMIT:
        raise _wrong(whole, "its name is longer than %d characters" % _NAME_LIMIT)
    if tag is not None and not re.fullmatch(_TAG, tag):
        raise _wrong(whole, "%r is no tag: at most 128 letters, digits, . _ -, not starting with . or -" % tag)
    return ImageRef(transport, registry, repository, tag or ("" if digest else "latest"), digest)


def _split(name: str) -> Tuple[str, str, Optional[str]]:
    """Registry, repository and tag (None: not given) of a name without its digest."""
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        registry = first
    else:
        registry, rest = DOCKER_HUB, name
    repository, colon, tag = rest.partition(":")
    return registry, repository, tag if colon else None
