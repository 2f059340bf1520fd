"""Apptainer and base images from packages, for real: found, installed, used, by two at once, and where it cannot be done."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gha_apptainer.domain.errors import HostUnfit, ImageFailed
from gha_apptainer.domain.places import private_apptainer
from gha_apptainer.node.main.provision import provide, why_not
from gha_apptainer.node.provision import staging
from gha_apptainer.node.provision.debian import PrivateApt, Source, host_sources

SOURCE = Path(__file__).parents[2] / "src"
needs_apt = pytest.mark.skipif(shutil.which("apt-get") is None, reason="no apt on this machine")


def run_verb(*arguments: str, **environ: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-I", "-S", str(SOURCE), "provision", *arguments]
    return subprocess.Popen(argv, env={"PATH": "/usr/bin:/bin", **environ}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@needs_apt
def test_two_at_once_install_one_apptainer_that_works(tmp_path: Path) -> None:
    home = str(tmp_path)
    both = [run_verb(HOME=home), run_verb(HOME=home)]
    answers = [one.communicate(timeout=300) for one in both]
    assert [one.returncode for one in both] == [0, 0], answers
    wanted = private_apptainer({"HOME": home}, os.uname().machine)
    assert {out.strip() for out, _ in answers} == {wanted}
    assert why_not(wanted) == ""
    assert not [name for name in os.listdir(tmp_path / ".cache/gha-apptainer") if name.startswith(".stage-")]
    # the helpers come with it, and a third call finds it without a word
    assert {"squashfuse_ll", "fuse-overlayfs", "mksquashfs", "unsquashfs"} <= set(os.listdir(os.path.dirname(wanted)))
    third = run_verb(HOME=home)
    assert third.communicate(timeout=60) == (wanted + "\n", "")


def test_no_home_is_an_error_that_says_what_to_set() -> None:
    with pytest.raises(HostUnfit) as caught:
        provide({"PATH": "/nonexistent"}, lambda text: None)
    assert "XDG_CACHE_HOME" in caught.value.remedy or "install" in caught.value.remedy


def test_an_unwritable_home_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostUnfit, match="cannot write below"):
        staging.cache({"HOME": str(tmp_path / "file")})


def test_a_named_apptainer_that_is_none_is_refused() -> None:
    with pytest.raises(HostUnfit, match="/bin/true is named as Apptainer"):
        provide({"GHA_APPTAINER": "/bin/true", "PATH": "/usr/bin:/bin"}, lambda text: None)


def test_an_apptainer_that_cannot_start_containers_is_passed_over(tmp_path: Path) -> None:
    liar = tmp_path / "apptainer"
    liar.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo apptainer version 1.4.0 || { echo 'no user namespaces' >&2; exit 255; }\n")
    liar.chmod(0o755)
    assert "no user namespaces" in why_not(str(liar))
    liar.write_text("#!/bin/sh\necho apptainer version 1.2.5\n")
    assert why_not(str(liar)) == "%s is version 1.2.5, 1.3 or newer is needed" % liar


@needs_apt
def test_an_archive_that_is_gone_is_an_error(tmp_path: Path) -> None:
    main = host_sources(os.environ)[0]
    source = Source(main.uri, "no-such-suite", "main", main.origin)
    with pytest.raises(ImageFailed, match="cannot read the package lists"):
        PrivateApt(str(tmp_path), (source,), os.environ, lambda text: None).update()


@needs_apt
def test_a_busybox_image_is_made_once_and_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gha_apptainer.node.provision.base_images import busybox_image

    told: list[str] = []
    old = os.umask(0o077)
    try:
        image = busybox_image({"HOME": str(tmp_path)}, told.append)
    finally:
        os.umask(old)
    assert told
    assert os.stat(image).st_mode & 0o777 == 0o755
    assert os.stat(os.path.join(image, "tmp")).st_mode & 0o7777 == 0o1777
    for name in ("dev", "proc", "sys", "tmp", "etc/hosts", "bin/sh", "etc/passwd"):
        assert os.path.exists(os.path.join(image, name)), name
    told.clear()
    assert busybox_image({"HOME": str(tmp_path)}, told.append) == image
    assert told == []


@needs_apt
def test_a_debian_image_knows_its_packages(debian_rootfs: str) -> None:
    listed = subprocess.run(["dpkg-query", "--admindir", debian_rootfs + "/var/lib/dpkg", "-W", "-f", "${Package} ${db:Status-Status}\n"],
                            capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()  # fmt: skip
    assert {"apt installed", "dpkg installed", "python3-pip installed", "passwd installed"} <= set(listed)
    assert all(line.endswith(" installed") for line in listed)
    audit = subprocess.run(["dpkg", "--root", debian_rootfs, "--audit"], capture_output=True, text=True, timeout=60, check=False)
    assert audit.stdout == ""


@needs_apt
def test_no_file_of_an_image_gives_rights_to_another(debian_rootfs: str) -> None:
    found = [name for place, _, files in os.walk(debian_rootfs) for name in files
             if not os.path.islink(os.path.join(place, name)) and os.lstat(os.path.join(place, name)).st_mode & 0o6000]  # fmt: skip
    assert found == []
