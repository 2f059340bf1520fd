"""Debian and Ubuntu packages without root and without touching the host's: a private apt, and unpacking.

The archives' addresses are those of the host's own apt. Its package lists, pins, hooks and state are left alone: apt gets a
configuration, a state and an empty list of installed packages of its own (apt.conf(5), "APT_CONFIG" is read first). Signatures
are checked by apt with the system's keyring, digests of packages by apt against the signed lists.
"""

from __future__ import annotations

import os
import re
import tempfile
from fnmatch import fnmatchcase
from typing import Callable, Dict, List, Mapping, Sequence, Tuple

from gha_apptainer.domain.containers import Args, Env
from gha_apptainer.domain.errors import HostUnfit, ImageFailed, ProcessFailed
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node.files import encode
from gha_apptainer.node.process import BASE_PATH, run

Tell = Callable[[str], None]
SHORT_S, LONG_S = 60.0, 900.0
"""Limits: what only reads, and what downloads or unpacks."""

_KEYRINGS = {
    "Debian": ("/usr/share/keyrings/debian-archive-keyring.pgp", "/usr/share/keyrings/debian-archive-keyring.gpg"),
    "Ubuntu": ("/usr/share/keyrings/ubuntu-archive-keyring.gpg",),
}
TAKE_EXPIRED = 'Acquire::Check-Valid-Until "false";\n'
"""apt's setting with which package lists past their date are taken, apt.conf(5)."""
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_FIELDS = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)"


@dataclass(frozen=True)
class Source:
    """One archive of the host: `deb [signed-by=keyring] uri suite component`."""

    uri: str
    suite: str
    component: str
    origin: str

    def line(self) -> str:
        """As sources.list(5) writes it."""
        return "deb [signed-by=%s] %s %s %s" % (keyring(self.origin), self.uri, self.suite, self.component)


def keyring(origin: str) -> str:
    """The system's keyring of an archive's origin. Raises HostUnfit if there is none, for without one nothing can be trusted."""
    for path in _KEYRINGS[origin]:
        if os.path.isfile(path):
            return path
    raise HostUnfit("there is no keyring of the %s archive" % origin, remedy="install the package %s-archive-keyring" % origin.lower())


def host_sources(environ: Mapping[str, str]) -> Tuple[Source, ...]:
    """The Debian or Ubuntu archives that the host's apt uses, the first one the main one; empty without apt."""
    if not any(os.access(os.path.join(one, "apt-get"), os.X_OK) for one in BASE_PATH.split(":")):
        return ()
    listed = run(("apt-get", "indextargets", "--format", _FIELDS, "Created-By: Packages"), env=_environment(environ), timeout=SHORT_S)
    sources = [Source(*line.split("|")) for line in listed.check().stdout.decode().splitlines()]
    found = [source for source in dict.fromkeys(sources) if source.origin in _KEYRINGS] or _unread_sources(environ)
    return tuple(sorted(found, key=lambda one: one.suite.count("-")))


_RELEASE = re.compile(r"'(\S+)/dists/(\S+)/InRelease' (\S+)")


def _unread_sources(environ: Mapping[str, str]) -> List[Source]:
    """The same where apt has not read its archives yet, as in a fresh container: who an archive is stands in its signed release file."""
    found = []
    with tempfile.TemporaryDirectory(prefix="gha-apptainer-") as work:
        lists = os.path.join(work, "lists")
        os.makedirs(os.path.join(lists, "partial"))
        env = (*_environment(environ), ("APT_CONFIG", os.path.join(work, "apt.conf")))
        _write_configuration(work, _private_state(work))
        printed = run(("apt-get", "update", "--print-uris"), env=env, timeout=SHORT_S).check().stdout.decode("utf-8", "replace")
        run(("apt-get", "-qq", "update"), env=env, timeout=LONG_S)  # an archive that fails leaves no file
        for uri, suite, name in _RELEASE.findall(printed):
            release = _text_of(os.path.join(lists, name))
            origin = re.search(r"(?m)^Origin: (\S+)$", release)
            if origin and origin[1] in _KEYRINGS:
                components = ("main", "universe") if origin[1] == "Ubuntu" else ("main",)
                found += [Source(uri, suite, component, origin[1]) for component in components]
    return found


def _text_of(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read()
    except FileNotFoundError:
        return ""


def _private_state(directory: str) -> Dict[str, str]:
    """The host's own sources, read into lists that are not the host's."""
    return {
        "Dir::State": directory,
        "Dir::State::lists": directory + "/lists",
        "Dir::Cache": directory,
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Acquire::Check-Valid-Until": "false",
        "Acquire::IndexTargets::deb::Packages::DefaultEnabled": "false",
        "Acquire::http::Timeout": "60",
        "Acquire::https::Timeout": "60",
    }


def _write_configuration(directory: str, rows: Mapping[str, str]) -> None:
    with open(os.path.join(directory, "apt.conf"), "wb") as handle:
        handle.write(encode("".join('%s "%s";\n' % row for row in rows.items())))


class PrivateApt:
    """apt with everything of its own in `directory`, which the caller makes and removes."""

    def __init__(self, directory: str, sources: Sequence[Source], environ: Mapping[str, str], tell: Tell) -> None:
        self._directory = directory
        self._sources = sources
        self._tell = tell
        self._env = (*_environment(environ), ("APT_CONFIG", self._path("apt.conf")))
        self._host_env = _environment(environ)
        self.expired = False
        """Whether the package lists were past their date."""

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def update(self) -> None:
        """Read the signed package lists. An expired list is taken, and said, since its signature still holds."""
        for name in ("lists/partial", "archives/partial", "debs"):
            os.makedirs(self._path(name), exist_ok=True)
        self._write("status", "")
        self._write("sources.list", "".join(source.line() + "\n" for source in self._sources))
        network = self.network()
        self._write("apt.conf", _configuration(self._directory, network))
        done = run(("apt-get", "-qq", "update"), env=self._env, timeout=LONG_S)
        if done.code and b"is expired" in done.stderr + done.stdout:
            self._tell("the archive's package list is signed but past its date, as frozen mirrors are: taking it")
            self.expired = True
            self._write("apt.conf", _configuration(self._directory, network + TAKE_EXPIRED))
            done = run(("apt-get", "-qq", "update"), env=self._env, timeout=LONG_S)
        if done.code:
            raise ImageFailed(
                "cannot read the package lists of %s: %s" % (self._sources[0].uri, done.stderr.decode("utf-8", "replace").strip()[-800:]),
                cause="no network, or an archive that is gone",
                remedy="check that `apt-get update` works on this machine",
            )

    def closure(self, names: Sequence[str], leave: Sequence[str] = ()) -> Args:
        """The packages needed for `names` on an empty system, dependencies first, without those that match `leave`."""
        done = run(("apt-get", "-s", "install", *names), env=self._env, timeout=SHORT_S)
        if done.code:
            raise ImageFailed("no packages for %s: %s" % (" ".join(names), done.stderr.decode("utf-8", "replace").strip()[-800:]))
        # `Inst NAME (VERSION …)`, in the order in which dpkg would take them
        found = [line.split()[1] for line in done.stdout.decode().splitlines() if line.startswith("Inst ")]
        return tuple(name for name in dict.fromkeys(found) if not any(fnmatchcase(name, one) for one in leave))

    def download(self, names: Args) -> Args:
        """Fetch the packages; gives the paths of the files, in the order of `names`."""
        run(("apt-get", "-qq", "download", *names), env=self._env, timeout=LONG_S, cwd=self._path("debs")).check()
        by_name = {name.split("_", 1)[0]: os.path.join(self._path("debs"), name) for name in os.listdir(self._path("debs"))}
        missing = [name for name in names if name.split(":")[0] not in by_name]
        if missing:
            raise ImageFailed("apt did not fetch %s" % ", ".join(missing))
        return tuple(by_name[name.split(":")[0]] for name in names)

    def network(self) -> str:
        """How the host's apt reaches the network, as lines of apt.conf: proxies and certificates, nothing else of its configuration."""
        dump = run(("apt-config", "dump"), env=self._host_env, timeout=SHORT_S).check().stdout.decode("utf-8", "replace")
        lines = [line for line in dump.splitlines() if line.startswith(("Acquire::http::", "Acquire::https::"))]
        kept = [line for line in lines if not line.endswith(' "";')]
        return "".join(line + "\n" for line in kept)

    def _write(self, name: str, text: str) -> None:
        with open(self._path(name), "wb") as handle:
            handle.write(encode(text))


def _configuration(directory: str, network: str) -> str:
    rows = {
        "Dir::Etc::parts": "/dev/null",
        "Dir::Etc::main": "/dev/null",
        "Dir::Etc::sourcelist": directory + "/sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State": directory,
        "Dir::State::lists": directory + "/lists",
        "Dir::State::status": directory + "/status",
        "Dir::Cache": directory,
        "Dir::Cache::archives": directory + "/archives",
        "APT::Sandbox::User": "",
        "APT::Install-Recommends": "false",
        "APT::Get::AllowUnauthenticated": "false",
        "Acquire::AllowInsecureRepositories": "false",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Acquire::http::Timeout": "60",
        "Acquire::https::Timeout": "60",
        # without it apt ends with 0 when some of the lists could not be had
        "APT::Update::Error-Mode": "any",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
    }
    return "".join('%s "%s";\n' % row for row in rows.items()) + network


def _environment(environ: Mapping[str, str]) -> Env:
    passed = tuple((name, environ[name]) for name in _PROXIES if name in environ)
    return (("PATH", BASE_PATH), ("HOME", "/nonexistent"), ("LANG", "C.UTF-8"), ("DEBIAN_FRONTEND", "noninteractive"), *passed)


def unpack(package: str, directory: str, *, exclude: Sequence[str] = ()) -> Args:
    """Unpack the files of a .deb below `directory`, links to directories kept; gives the member names, as `/usr/bin/x`.

    As root the files keep their owners, as a user they are the user's. Modes lose setuid and setgid: nothing of a tree that a
    user made may give rights to another.
    """
    data = run(("dpkg-deb", "--fsys-tarfile", package), timeout=LONG_S).check().stdout
    # the modes in a package are right; what the person's umask takes away would be missing in the container
    argv = ["sh", "-c", 'umask 022; exec "$@"', "sh", "tar", "-xvf", "-", "-C", directory, "--keep-directory-symlink"]
    argv += ["--no-same-permissions", "--numeric-owner", "--quoting-style=literal"]
    argv += ["--exclude=" + one for one in exclude]
    try:
        done = run(tuple(argv), timeout=LONG_S, input=data).check()
    except ProcessFailed as error:
        raise ImageFailed("cannot unpack %s: %s" % (os.path.basename(package), error.stderr.strip()[-400:])) from error
    members = [name[1:].rstrip("/") for name in done.stdout.decode("utf-8", "replace").splitlines()]
    return tuple(name for name in members if name)
