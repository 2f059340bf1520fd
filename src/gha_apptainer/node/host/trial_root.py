"""A root directory that holds one program and nothing else: enough to see whether containers start."""

from __future__ import annotations

import os


def tiny_root(directory: str, program: str) -> str:
    """A root directory in which nothing but the static `program` can run, as `/program`; for trying whether containers start."""
    for name in ("dev", "proc", "sys", "tmp", "etc", "var/tmp", "root"):
        os.makedirs(os.path.join(directory, name))
    for name in ("hosts", "resolv.conf", "localtime", "passwd", "group"):
        with open(os.path.join(directory, "etc", name), "w", encoding="utf-8"):
            pass
    with open(program, "rb") as source, open(os.path.join(directory, "program"), "wb") as target:
        target.write(source.read())
    os.chmod(os.path.join(directory, "program"), 0o755)
    return directory


def host_loader(apptainer: str) -> str:
    """A dynamic loader that can serve as static program: that of an installation like ours, else the host's; empty if there is none."""
    import glob  # only for a first probe

    prefix = os.path.dirname(os.path.dirname(os.path.abspath(apptainer)))
    for pattern in (prefix + "/lib/*-linux-gnu/ld-linux*.so.*", "/lib64/ld-linux*.so.*", "/lib/ld-linux*.so.*"):
        for path in sorted(glob.glob(pattern)):
            if os.path.isfile(path):
                return path
    return ""
