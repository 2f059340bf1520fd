"""What the scripts of Debian's packages would have done to a fresh tree, as far as programs need it.

The files and their forms: dpkg(1) "FILES", deb-triggers(5), passwd(5), shadow(5), pam.d(5), policy-rc.d of invoke-rc.d(8).
"""

from __future__ import annotations

import os
import shutil
from typing import Dict, List, Mapping, Sequence, Tuple

from gha_apptainer.domain.containers import Args
from gha_apptainer.node.files import encode
from gha_apptainer.node.process import run
from gha_apptainer.node.provision.debian import Source

_LIMIT_S = 120.0
_HOST_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"


def configure_debian(tree: str, members: Mapping[str, Args], sources: Sequence[Source], settings: str) -> None:
    """Make the unpacked tree usable. `members` are the packages' files with the names that they hold, `settings` lines for apt.conf."""
    _packages_known(tree, members)
    _users(tree)
    _alternatives(tree)
    _authorities(tree)
    _archives(tree, sources, settings)
    for name in ("profile", "nsswitch.conf"):
        _copy(tree, "usr/share/base-files/" + name, "etc/" + name)
    for name in ("bashrc", "profile"):
        _copy(tree, "usr/share/base-files/dot." + name, "root/." + name)
    _write(tree, "etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
    for name in ("etc/resolv.conf", "etc/localtime", "etc/fstab", "etc/environment"):
        if not os.path.lexists(os.path.join(tree, name)):
            _write(tree, name, "")
    # packages that are installed in a container must not start services there, as in Docker's images
    _write(tree, "usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)
    loader_cache = os.path.join(tree, "sbin", "ldconfig")
    if os.path.exists(loader_cache):
        run((loader_cache, "-r", tree), timeout=_LIMIT_S).check()


def _packages_known(tree: str, members: Mapping[str, Args]) -> None:
    """dpkg's list of what is installed, with the scripts that upgrades and removals call, and the triggers."""
    info = os.path.join(tree, "var/lib/dpkg/info")
    os.makedirs(info, exist_ok=True)
    for name in ("alternatives", "parts", "triggers", "updates"):
        os.makedirs(os.path.join(tree, "var/lib/dpkg", name), exist_ok=True)
    status: List[str] = []
    interests: Dict[str, List[str]] = {}
    for package, names in members.items():
        control = run(("dpkg-deb", "--field", package), timeout=_LIMIT_S).check().stdout.decode("utf-8")
        fields = _fields(control)
        stem = fields["Package"] + (":" + fields["Architecture"] if fields.get("Multi-Arch") == "same" else "")
        scripts = os.path.join(info, stem + ".scripts")
        run(("dpkg-deb", "--control", package, scripts), timeout=_LIMIT_S).check()
        conffiles = _take_scripts(scripts, info, stem)
        head, _, rest = control.partition("\n")
        entry = [head, "Status: install ok installed", rest.rstrip("\n")]
        if conffiles:
            entry.append("Conffiles:\n" + "\n".join(" %s %s" % (one, _md5(tree, one)) for one in conffiles))
        status.append("\n".join(entry) + "\n")
        _write(tree, "var/lib/dpkg/info/%s.list" % stem, "".join(name + "\n" for name in ("/.", *names)))
        _read_triggers(os.path.join(info, stem + ".triggers"), stem, interests)
    _write(tree, "var/lib/dpkg/status", "\n".join(status))
    _write(tree, "var/lib/dpkg/available", "")
    _write(tree, "var/lib/dpkg/info/format", "1\n")
    for name, lines in interests.items():
        _write(tree, "var/lib/dpkg/triggers/" + name, "".join(line + "\n" for line in lines))


def _fields(control: str) -> Mapping[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in control.splitlines() if line[:1] not in ("", " "))}


def _take_scripts(scripts: str, info: str, stem: str) -> Args:
    conffiles: Tuple[str, ...] = ()
    for name in os.listdir(scripts):
        if name == "control":
            continue
        if name == "conffiles":
            with open(os.path.join(scripts, name), encoding="utf-8") as handle:
                conffiles = tuple(line.strip() for line in handle if line.startswith("/"))
        os.rename(os.path.join(scripts, name), os.path.join(info, "%s.%s" % (stem, name)))
    shutil.rmtree(scripts)
    return conffiles


def _md5(tree: str, name: str) -> str:
    """dpkg compares configuration files by MD5; no protection hangs on it."""
    path = os.path.join(tree, name.lstrip("/"))
    if not os.path.isfile(path):
        return "newconffile"
    return run(("md5sum", path), timeout=_LIMIT_S).check().stdout.decode().split()[0].lstrip("\\")


def _read_triggers(path: str, stem: str, interests: Dict[str, List[str]]) -> None:
    """deb-triggers(5): `interest[-noawait] NAME`, where a NAME that is a path goes to the file `File`."""
    if not os.path.exists(path):
        return
    with open(path, encoding="utf-8") as handle:
        rows = [line.split() for line in handle if line.strip() and not line.startswith("#")]
    for directive, name in rows:
        if directive.startswith("interest"):
            who = stem + ("/noawait" if directive == "interest-noawait" else "")
            if name.startswith("/"):
                interests.setdefault("File", []).append("%s %s" % (name, who))
            else:
                interests.setdefault(name, []).append(who)


def _users(tree: str) -> None:
    for name in ("passwd", "group"):
        _copy(tree, "usr/share/base-passwd/%s.master" % name, "etc/" + name)
    with open(os.path.join(tree, "etc/passwd"), encoding="utf-8") as handle:
        users = [line.split(":")[0] for line in handle]
    if "_apt" not in users:  # apt's own script would add it
        with open(os.path.join(tree, "etc/passwd"), "a", encoding="utf-8") as handle:
            handle.write("_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n")
        users.append("_apt")
    # 0o644: in a container whose only mapped id is the caller's nobody else is there to hide it from, and it holds no password
    _write(tree, "etc/shadow", "".join("%s:*:19700:0:99999:7:::\n" % name for name in users))
    with open(os.path.join(tree, "etc/group"), encoding="utf-8") as handle:
        groups = [line.split(":")[0] for line in handle]
    _write(tree, "etc/gshadow", "".join("%s:*::\n" % name for name in groups))
    for kind in ("auth", "account", "password", "session", "session-noninteractive"):
        module = "permit" if kind.startswith("session") else "unix"
        _write(tree, "etc/pam.d/common-" + kind, "%s required pam_%s.so\n" % (kind.split("-")[0], module))


def _alternatives(tree: str) -> None:
    for name, choices in (("awk", ("mawk", "gawk")), ("which", ("which.debianutils",)), ("pager", ("more",)), ("nawk", ("mawk",))):
        for choice in choices:
            if os.path.exists(os.path.join(tree, "usr/bin", choice)) and not os.path.exists(os.path.join(tree, "usr/bin", name)):
                _link(tree, "/usr/bin/" + choice, "etc/alternatives/" + name)
                _link(tree, "/etc/alternatives/" + name, "usr/bin/" + name)
    if not os.path.lexists(os.path.join(tree, "usr/bin/sh")):
        _link(tree, "dash", "usr/bin/sh")


def _authorities(tree: str) -> None:
    """The package's certificate authorities and those that the host trusts, in the form that update-ca-certificates(8) keeps."""
    package = os.path.join(tree, "usr/share/ca-certificates")
    names = sorted(os.path.relpath(os.path.join(place, name), package) for place, _, files in os.walk(package) for name in files)
    _write(tree, "etc/ca-certificates.conf", "".join(name + "\n" for name in names if name.endswith(".crt")))
    bundle = []
    for name in names:
        with open(os.path.join(package, name), "rb") as handle:
            bundle.append(handle.read().rstrip(b"\n") + b"\n")
    if os.path.isfile(_HOST_AUTHORITIES):
        with open(_HOST_AUTHORITIES, "rb") as handle:
            bundle = [handle.read()]
        _copy_file(_HOST_AUTHORITIES, os.path.join(tree, "usr/local/share/ca-certificates/host.crt"))
    target = os.path.join(tree, "etc/ssl/certs/ca-certificates.crt")
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "wb") as handle:
        handle.write(b"".join(bundle))


def _archives(tree: str, sources: Sequence[Source], settings: str) -> None:
    """The host's archives and its way to them, so that apt inside reaches what apt outside does."""
    _write(tree, "etc/apt/sources.list", "".join(source.line() + "\n" for source in sources))
    _write(tree, "etc/apt/apt.conf.d/80host", 'APT::Install-Recommends "false";\nAcquire::Languages "none";\n' + settings)


def _copy(tree: str, source: str, target: str) -> None:
    if os.path.isfile(os.path.join(tree, source)):
        _copy_file(os.path.join(tree, source), os.path.join(tree, target))


def _copy_file(source: str, target: str) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copyfile(source, target)


def _link(tree: str, target: str, name: str) -> None:
    path = os.path.join(tree, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.lexists(path):
        os.unlink(path)
    os.symlink(target, path)


def _write(tree: str, name: str, text: str, mode: int = 0o644) -> None:
    path = os.path.join(tree, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as handle:
        handle.write(encode(text))
    os.chmod(path, mode)
