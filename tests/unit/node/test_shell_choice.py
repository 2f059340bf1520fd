"""Which images certainly have no bash."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import pytest

from gha_apptainer.domain.containers import Mount
from gha_apptainer.domain.images import SANDBOX, SIF, Digest, Image, OciConfig
from gha_apptainer.node.actions.shell_choice import lacks_bash

PATH = "/usr/local/bin:/usr/bin:/bin"
Files = Dict[str, str]


def image(root: Path, files: Files, **more: Any) -> Image:
    """A tree with these files; a value that is not empty makes the file a link to it."""
    for name, target in files.items():
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if target:
            place.symlink_to(target)
        else:
            place.touch()
    return Image(
        **{"reference": "x", "digest": Digest(), "config": OciConfig(), "rootfs": str(root), "form": SANDBOX, "route": "path", **more}
    )


@pytest.mark.parametrize(
    "files, path, lacks",
    [
        ({"bin/sh": ""}, PATH, True),
        ({"bin/sh": "busybox", "bin/busybox": ""}, PATH, True),
        ({"bin": "usr/bin", "usr/bin/sh": "/bin/busybox", "usr/bin/busybox": ""}, PATH, True),
        ({"bin/sh": "", "opt/bash": ""}, PATH, True),
        ({"bin/sh": "", "opt/bash": ""}, "/opt:" + PATH, False),
        ({"bin/sh": "", "bin/bash": ""}, PATH, False),
        ({"bin/sh": "", "usr/local/bin/bash": "/opt/bash", "opt/bash": ""}, PATH, False),
        ({"bin/sh": "", "usr/local/bin/bash": "/opt/absent"}, PATH, True),
        ({"bin/sh": "", "usr/local/bin/bash": "bash"}, PATH, False),
        ({"usr/bin/env": ""}, PATH, False),
        ({}, PATH, False),
        ({"bin/sh": ""}, "/usr/bin", False),
        ({"bin/sh": ""}, ".:" + PATH, False),
        ({"bin/sh": ""}, PATH + ":", False),
        ({"bin/sh": ""}, "", False),
    ],
)
def test_only_certainty_counts(tmp_path: Path, files: Files, path: str, lacks: bool) -> None:
    assert lacks_bash(image(tmp_path / "root", files), (), path) is lacks


def test_links_of_the_image_do_not_lead_out_of_it(tmp_path: Path) -> None:
    (tmp_path / "bash").touch()
    for target in (str(tmp_path / "bash"), "../../../bash"):
        root = tmp_path / target.replace("/", "_")
        assert lacks_bash(image(root, {"bin/sh": "", "bin/bash": target}), (), PATH)


@pytest.mark.parametrize(
    "target, link, lacks",
    [
        ("/work", {}, True),
        ("/usr", {}, False),
        ("/usr/local/bin", {}, False),
        ("/usr/local/bin/bash", {}, False),
        ("/usr/local/bin/zsh", {}, True),
        ("/cvmfs", {"usr/local/bin": "/cvmfs/sw/bin"}, False),
        ("/cvmfs", {"usr/local/bin/bash": "/cvmfs/sw/bin/bash"}, False),
    ],
)
def test_what_a_mount_brings_is_not_known(tmp_path: Path, target: str, link: Files, lacks: bool) -> None:
    files = {"bin/sh": "", **link}
    assert lacks_bash(image(tmp_path / "root", files), (Mount(source="/x", target=target),), PATH) is lacks


def test_what_cannot_be_looked_at_is_tried(tmp_path: Path) -> None:
    files = {"bin/sh": ""}
    assert not lacks_bash(image(tmp_path / "sif", files, form=SIF), (), PATH)
    assert not lacks_bash(image(tmp_path / "cvmfs", files, route="cvmfs"), (), PATH)
    assert not lacks_bash(image(tmp_path / "path", files, rootfs="/cvmfs/x.org/image"), (), PATH)
    assert not lacks_bash(image(tmp_path / "bad", files), (), "/bin/a\0b")
