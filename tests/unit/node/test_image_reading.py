"""What is read from images themselves and about storage: SIF tables, shell texts, mount tables, CVMFS names, challenges, platforms."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as some

from gha_apptainer.domain.errors import HostUnfit, ImageFailed
from gha_apptainer.domain.image_refs import parse
from gha_apptainer.domain.images import OciConfig
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node.images.cvmfs_layout import by_digest, by_name
from gha_apptainer.node.images.filesystems import LOCAL, MEMORY, NETWORK, nature_of, type_of
from gha_apptainer.node.images.in_image import config_of_directory, config_of_texts
from gha_apptainer.node.images.platforms import Platform, platform_for
from gha_apptainer.node.images.registry_client import parse_challenges
from gha_apptainer.node.images.sif import read_sif, sif_config


def _sif(objects: list[Tuple[int, str, bytes, bytes]], architecture: bytes = b"02") -> bytes:
    """A SIF by the published layout: kind, name, data and extra of each object."""
    table = 128
    data = table + 585 * len(objects)
    rows, blobs = b"", b""
    for number, (kind, name, content, extra) in enumerate(objects, 1):
        rows += struct.pack(
            "<i?III7q128s384s", kind, True, number, 1, 0, data + len(blobs), len(content), len(content), 0, 0, 0, 0, name.encode(), extra
        )
        blobs += content
    numbers = (0, 0, 0, len(objects), table, len(rows), data, len(blobs))
    return struct.pack("<32s10s3s3s16sqqqqqqqq", b"#!/x", b"SIF_MAGIC\0", b"01\0", architecture + b"\0", b"", *numbers) + rows + blobs


ROOT = (0x4004, "root", b"hsqs" * 100, struct.pack("<ii3s", 1, 2, b"02\0"))
CONFIG = (0x4006, "oci-config.json", json.dumps({"Cmd": ["/x"], "User": "7"}).encode(), b"")


def test_sif_tells_root_and_configuration(tmp_path: Path) -> None:
    path = tmp_path / "x.sif"
    path.write_bytes(_sif([(0x4006, "other", b"{}", b""), CONFIG, ROOT]))
    found = read_sif(str(path))
    assert (found.size, found.architecture, found.squashfs) == (400, "amd64", True)
    with path.open("rb") as handle:
        handle.seek(found.offset)
        assert handle.read(4) == b"hsqs"
    assert sif_config(found) == OciConfig(cmd=("/x",), user="7")


def test_sif_without_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "x.sif"
    path.write_bytes(_sif([ROOT]))
    assert sif_config(read_sif(str(path))) is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no SIF"),
        (b"\x7fELF" * 100, "no SIF"),
        (_sif([CONFIG]), "no root file system"),
        (_sif([(0x4004, "data", b"x", struct.pack("<ii3s", 1, 3, b"02\0"))]), "no root file system"),
        (_sif([ROOT])[:-1], "damaged"),
        (_sif([ROOT])[:200], "damaged"),
        (_sif([ROOT])[:88] + struct.pack("<q", 1 << 40) + _sif([ROOT])[96:], "damaged"),
    ],
)
def test_sif_that_cannot_be_run(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "x.sif"
    path.write_bytes(data)
    with pytest.raises(ImageFailed, match=why):
        read_sif(str(path))


@given(at=some.integers(0, 1300), byte=some.integers(0, 255), end=some.integers(0, 2000))
def test_any_damage_to_a_sif_is_read_or_named(tmp_path_factory: pytest.TempPathFactory, at: int, byte: int, end: int) -> None:
    data = bytearray(_sif([CONFIG, ROOT]))
    data[at % len(data)] = byte
    path = tmp_path_factory.mktemp("sif") / "x.sif"
    path.write_bytes(bytes(data[:end]) if end < len(data) else bytes(data))
    try:
        sif_config(read_sif(str(path)))
        named = str(path)
    except ImageFailed as error:
        named = error.what
    assert str(path) in named


def test_shell_texts_are_read_and_never_run() -> None:
    env = r"""#!/bin/sh
export PATH="/bin:/usr/bin"
export A="${A:-"b c"}"
export Q="${Q:-"say \"hi\" \$x \\ \`t\`"}"
export RUN="$(touch /tmp/evil)"
export TICK=`id`
export LIVE="${LIVE:-"$HOME"}"
export S='single $x'
PLAIN=ok
if true; then
"""
    runscript = '#!/bin/sh\nOCI_ENTRYPOINT=\'"/e" "a b"\'\nOCI_CMD=\'"it\'"\'"\'s"\'\n'
    found = config_of_texts({".singularity.d/env/10-docker2singularity.sh": env, ".singularity.d/runscript": runscript})
    assert dict(found.env) == {"PATH": "/bin:/usr/bin", "A": "b c", "Q": 'say "hi" $x \\ `t`', "S": "single $x", "PLAIN": "ok"}
    assert (found.entrypoint, found.cmd) == (("/e", "a b"), ("it's",))


def test_broken_texts_tell_nothing() -> None:
    env = "export 9=x\nexport A=$(x"
    assert config_of_texts({".singularity.d/runscript": "OCI_CMD='\"open", ".singularity.d/env/90-environment.sh": env}) == OciConfig()


def test_links_in_an_image_are_not_followed_out_of_it(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text('export STOLEN="yes"\n')
    image = tmp_path / "image"
    (image / ".singularity.d/env").mkdir(parents=True)
    (image / ".singularity.d/env/90-environment.sh").symlink_to(secret)
    assert config_of_directory(str(image)) == OciConfig()
    outside = tmp_path / "outside/env"
    outside.mkdir(parents=True)
    (outside / "90-environment.sh").write_text('export STOLEN="yes"\n')
    other = tmp_path / "other"
    other.mkdir()
    (other / ".singularity.d").symlink_to(outside.parent)
    assert config_of_directory(str(other)) == OciConfig()


MOUNTS = """21 1 254:0 / / rw - ext4 /dev/vda rw
30 21 0:30 / /dev/shm rw - tmpfs tmpfs rw
31 21 0:31 / /scratch rw shared:1 - lustre mds@tcp:/x rw
32 31 0:32 / /scratch/my\\040files rw - nfs4 server:/x rw
33 21 0:33 / /cvmfs/a rw - fuse cvmfs2 rw
34 21 0:34 / /over rw - ext4 /dev/vdb rw
35 21 0:35 / /over rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "kind", "nature"),
    [
        ("/home/x", "ext4", LOCAL),
        ("/dev/shm/x", "tmpfs", MEMORY),
        ("/scratch", "lustre", NETWORK),
        ("/scratchy", "ext4", LOCAL),
        ("/scratch/my files/x", "nfs4", NETWORK),
        ("/cvmfs/a/b", "fuse", NETWORK),
        ("/over/x", "tmpfs", MEMORY),
    ],
)
def test_storage_is_told_by_its_topmost_mount(path: str, kind: str, nature: str) -> None:
    assert type_of(path, MOUNTS) == kind
    assert nature_of(kind) == nature


def test_local_kinds_of_fuse() -> None:
    assert nature_of("fuse.fuse-overlayfs") == LOCAL
    assert nature_of("fuse.juicefs") == nature_of("fuse.sshfs") == NETWORK


def test_cvmfs_candidates() -> None:
    places = ("/cvmfs/u.cern.ch", "/cvmfs/v.infn.it/harbor.infn.it/unpacked")
    there = NodeSettings(cvmfs_images=places, cvmfs_aliases={"v.infn.it": "/mirror"})
    hub = [one.path for one in by_name(parse("debian:12"), there)]
    assert hub[:2] == ["/cvmfs/u.cern.ch/registry.hub.docker.com/library/debian:12", "/cvmfs/u.cern.ch/registry.hub.docker.com/debian:12"]
    assert not [path for path in hub if path.startswith("/mirror")]
    harbor = by_name(parse("harbor.infn.it/unpacked/tool:1"), there)
    assert [one.path for one in harbor] == ["/cvmfs/u.cern.ch/harbor.infn.it/unpacked/tool:1", "/mirror/harbor.infn.it/unpacked/tool:1"]
    assert harbor[1].manifest == "/mirror/.metadata/harbor.infn.it/unpacked/tool:1/manifest.json"
    assert by_name(parse("debian@sha256:" + "0" * 64), there) == ()
    assert [one.path for one in by_digest("ab" * 32, there)] == ["/cvmfs/u.cern.ch/.flat/ab/" + "ab" * 32, "/mirror/.flat/ab/" + "ab" * 32]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('Bearer realm="https://a/t",scope="r:x:pull,push"', {"bearer": {"realm": "https://a/t", "scope": "r:x:pull,push"}}),
        ("Basic realm=plain", {"basic": {"realm": "plain"}}),
        ('Basic realm="a, b", Bearer realm="https://c"', {"basic": {"realm": "a, b"}, "bearer": {"realm": "https://c"}}),
        ('bearer  Realm="x"', {"bearer": {"realm": "x"}}),
        ("nonsense", {}),
        ("", {}),
    ],
)
def test_challenges(text: str, found: object) -> None:
    assert parse_challenges(text) == found


@pytest.mark.parametrize(
    ("machine", "offers", "best"),
    [
        ("x86_64", ["linux/amd64/v3", "linux/arm64", "linux/amd64"], "linux/amd64"),
        ("x86_64", ["windows/amd64", "unknown/unknown"], None),
        ("x86_64", ["linux/amd64/v3"], None),
        ("aarch64", ["linux/arm64", "linux/arm64/v8"], "linux/arm64/v8"),
        ("aarch64", ["linux/arm64"], "linux/arm64"),
        ("armv7l", ["linux/arm/v6", "linux/arm/v7"], "linux/arm/v7"),
    ],
)
def test_best_offer_of_an_index(machine: str, offers: list[str], best: object) -> None:
    found = platform_for(machine).best([Platform(*text.split("/")) for text in offers])
    assert (str(found) if found else None) == best


def test_unknown_machine_is_named() -> None:
    with pytest.raises(HostUnfit, match="m68k"):
        platform_for("m68k")
