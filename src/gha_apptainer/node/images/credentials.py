"""Logins for registries: read from a Docker-style file where one is named, written to one for the length of a pull.

The form is `{"auths": {"REGISTRY": {"auth": "base64 of user:password"}}}`, https://man.archlinux.org/man/containers-auth.json.5.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from typing import Optional

from gha_apptainer.domain.errors import GhaError, InputError
from gha_apptainer.domain.image_plans import Login
from gha_apptainer.domain.image_refs import DOCKER_HUB, PATH, ImageRef
from gha_apptainer.domain.oci_configs import load_object
from gha_apptainer.domain.secrets import Secret
from gha_apptainer.node.files import read_whole

AUTHFILE_VARIABLE = "GHA_APPTAINER_AUTHFILE"
"""The environment variable that names a file of logins. No file is read unless it is named: a home may hold anybody's."""
_HUB_KEYS = ("https://index.docker.io/v1/", "docker.io", "index.docker.io", "registry-1.docker.io")


def read_login(path: str, ref: ImageRef) -> Optional[Login]:
    """The login for the registry of `ref` in the file at `path`; None where it holds none. Raises InputError naming the file."""
    if ref.transport == PATH:
        return None
    try:
        auths = load_object(read_whole(path, limit=1 << 20), path).get("auths")
    except (OSError, GhaError) as error:
        raise InputError("cannot read logins from %s: %s" % (path, error), remedy="name a file of docker's config.json form") from error
    for key in _HUB_KEYS if ref.registry == DOCKER_HUB else (ref.registry, "https://" + ref.registry):
        entry = auths.get(key) if isinstance(auths, dict) else None
        if isinstance(entry, dict) and isinstance(entry.get("auth"), str):
            try:
                user, colon, password = base64.b64decode(entry["auth"], validate=True).decode("utf-8").partition(":")
            except (binascii.Error, UnicodeDecodeError) as error:
                raise InputError("%s: the login for %s is not base64 of user:password" % (path, key)) from error
            if not colon:
                raise InputError("%s: the login for %s is not base64 of user:password" % (path, key))
            return Login(user, Secret(password))
    return None


def write_authfile(directory: str, ref: ImageRef, login: Login) -> str:
    """A file with one login for one registry, 0600 in the private directory `directory`; gives its path."""
    key = _HUB_KEYS[0] if ref.registry == DOCKER_HUB else ref.registry
    auth = base64.b64encode(("%s:%s" % (login.username, login.password.reveal())).encode("utf-8", "surrogateescape")).decode("ascii")
    path = os.path.join(directory, "auth.json")
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(handle, json.dumps({"auths": {key: {"auth": auth}}}).encode("ascii"))
    finally:
        os.close(handle)
    return path
