"""Fetches the pip that a lock file pins, with nothing but Python's standard library, and prints where its wheel is.

usage: pinned_pip.py LOCK DIRECTORY

Where Debian's python3 lacks pip and venv, this is how pip comes. The index is the one that pip itself would ask: PIP_INDEX_URL,
then pip's configuration files, then PyPI. Whatever the index answers, only a file with a digest of the lock file is taken.
"""

import base64
import configparser
import hashlib
import html
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

TRIES = 3
LIMIT_S = 60


def main() -> int:
    lock, directory = sys.argv[1:]
    with open(lock, encoding="utf-8") as file:
        text = file.read()
    pinned = re.search(r"^pip==(\S+)", text, re.MULTILINE)
    digests = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", text))
    if pinned is None or not digests:
        raise SystemExit("%s pins no pip" % lock)
    name = "pip-%s-py3-none-any.whl" % pinned[1]
    target = os.path.join(directory, name)
    if not (os.path.exists(target) and _digest_of(target) in digests):
        os.makedirs(directory, exist_ok=True)
        data = _fetch_wheel(_index(), name)
        if hashlib.sha256(data).hexdigest() not in digests:
            raise SystemExit("%s of the index is not the pinned one: wrong digest" % name)
        beside = "%s.%d.new" % (target, os.getpid())
        with open(beside, "wb") as file:
            file.write(data)
        os.rename(beside, target)
    print(target)
    return 0


def _digest_of(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _index() -> str:
    return (os.environ.get("PIP_INDEX_URL") or _configured("index-url") or "https://pypi.org/simple").rstrip("/")


def _configured(option: str) -> str:
    """pip's own search order: https://pip.pypa.io/en/stable/topics/configuration/"""
    home = os.path.expanduser("~")
    places = [os.path.join(one, "pip", "pip.conf") for one in reversed(os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":"))]
    places += ["/etc/pip.conf", os.path.join(home, ".pip", "pip.conf")]
    places.append(os.path.join(os.environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config"), "pip", "pip.conf"))
    if os.environ.get("PIP_CONFIG_FILE"):
        places.append(os.environ["PIP_CONFIG_FILE"])
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(places, encoding="utf-8")
    except configparser.Error as error:
        raise SystemExit("pip's configuration cannot be read: %s" % error) from error
    return parser.get("install", option, fallback=parser.get("global", option, fallback=""))


def _fetch_wheel(index: str, name: str) -> bytes:
    page_url = index + "/pip/"
    page = _get(page_url).decode("utf-8", "replace")
    for link in re.findall(r'href=["\']([^"\']+)["\']', page):
        address = urllib.parse.urljoin(page_url, html.unescape(link)).split("#")[0]
        if urllib.parse.unquote(address).rsplit("/", 1)[-1] == name:
            return _get(address)
    raise SystemExit("the index does not offer %s" % name)


def _get(address: str) -> bytes:
    parts = urllib.parse.urlsplit(address)
    host = parts.netloc.rsplit("@", 1)[-1]
    request = urllib.request.Request(urllib.parse.urlunsplit(parts._replace(netloc=host)), headers={"Accept": "text/html, */*"})
    if parts.username is not None:
        login = "%s:%s" % (urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or ""))
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    context = ssl.create_default_context()
    authorities = os.environ.get("PIP_CERT") or _configured("cert")
    if authorities:
        context.load_verify_locations(authorities)
    for attempt in range(1, TRIES + 1):
        try:
            with urllib.request.urlopen(request, timeout=LIMIT_S, context=context) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            if error.code < 500 or attempt == TRIES:
                raise SystemExit("%s answers %d %s" % (host, error.code, error.reason)) from error
        except OSError as error:
            if attempt == TRIES:
                raise SystemExit("%s cannot be reached: %s" % (host, error)) from error
        time.sleep(attempt)
    raise AssertionError("the last try either returned or raised")


if __name__ == "__main__":
    raise SystemExit(main())
