"""image resolve, pull, push, wait, ls, rm, gc: root filesystems and the store."""

from __future__ import annotations

import json
import os
import sys
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from gha_apptainer.domain.docker_values import duration
from gha_apptainer.domain.docker_values import size as parse_size
from gha_apptainer.domain.documents import plain
from gha_apptainer.domain.errors import GhaError, ImageFailed, InputError
from gha_apptainer.domain.findings import FAIL, worst
from gha_apptainer.domain.image_plans import Login, RoutePlan, explain_lines, plan_document
from gha_apptainer.domain.image_refs import ImageRef, parse
from gha_apptainer.domain.images import PULL_ALWAYS, PULL_IF_NOT_PRESENT, PULL_POLICIES, Image
from gha_apptainer.domain.secrets import Secret
from gha_apptainer.node import files, images
from gha_apptainer.node.main import complain, environment, notes, tell
from gha_apptainer.node.main.context import AUTHFILE, Context
from gha_apptainer.node.main.parsing import Parser

DOCUMENT = 1
"""Version of the documents that --json prints."""
DAY = 86400.0


def main(argv: Sequence[str], context: Optional[Context] = None) -> int:
    """One of the verbs of `image`."""
    words = tuple(argv)
    if not words or words[0] in ("-h", "--help"):
        tell(_overview())
        return 0
    if words[0] not in VERBS:
        raise InputError("unknown command 'image %s'" % words[0], remedy="one of: " + ", ".join(VERBS))
    return VERBS[words[0]][0](words[1:], context or Context(environment()))


def _overview() -> str:
    lines = [
        "Example: gha-apptainer image resolve --explain ubuntu:24.04",
        "",
        "Usage: gha-apptainer image COMMAND [OPTIONS] …",
        "",
        "Commands:",
    ]
    lines += ["  %-8s %s" % (name, row[1]) for name, row in VERBS.items()]
    return "\n".join(lines)


def _plan(context: Context, reference: str, policy: str) -> RoutePlan:
    return images.plan(parse(reference, os.getcwd()), policy, context.settings, context.host)


def resolve(argv: Sequence[str], context: Context) -> int:
    """Which way an image would come; without network, and nothing is fetched."""
    parser = Parser("gha-apptainer image resolve", "gha-apptainer image resolve --explain ubuntu:24.04", VERBS["resolve"][1])
    parser.add_argument("reference", metavar="IMAGE")
    parser.add_argument("--explain", action="store_true", help="print every route, its cost, and why it lost")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--pull", choices=PULL_POLICIES, default=PULL_IF_NOT_PRESENT, help="the policy (%(default)s)")
    chosen = parser.read(argv)
    if chosen is None:
        return 0
    plan = _plan(context, chosen.reference, chosen.pull)
    if chosen.json:
        tell(json.dumps({"version": DOCUMENT, **plan_document(plan)}, indent=2))
    elif chosen.explain:
        for line in explain_lines(plan):
            tell(line)
    step = plan.chosen
    if step is None:
        reasons = "; ".join("%s: %s" % (one.route, one.why) for one in plan.steps)
        raise ImageFailed(
            "no route leads to image %s" % plan.ref, cause=reasons, remedy="gha-apptainer image resolve --explain shows every route"
        )
    if not chosen.json and not chosen.explain:
        tell(" ".join(word for word in (str(plan.ref), step.route, step.digest.text, step.path) if word))
    return 0


def pull(argv: Sequence[str], context: Context) -> int:
    """Fetch images. The last line on stdout is where the root filesystem lies."""
    parser = Parser("gha-apptainer image pull", "gha-apptainer image pull ubuntu:24.04", VERBS["pull"][1])
    parser.add_argument("references", metavar="IMAGE", nargs="+")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--pull", choices=PULL_POLICIES, default=PULL_ALWAYS, help="the policy (%(default)s)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    parser.add_argument("-u", "--username", metavar="NAME", help="the registry's user")
    parser.add_argument("--password-stdin", action="store_true", help="read the user's password from stdin")
    chosen = parser.read(argv)
    if chosen is None:
        return 0
    login = _login(chosen.username, from_stdin=chosen.password_stdin)
    talk = _talk(quiet=chosen.quiet)
    found: List[Image] = []

    def one(reference: str) -> None:
        plan = _plan(context, reference, chosen.pull)
        found.append(images.fetch(plan, login or context.login(plan.ref), talk))
        if not chosen.json:
            tell(found[-1].rootfs)

    code = _each(chosen.references, one)
    if chosen.json:
        tell(json.dumps({"version": DOCUMENT, "images": [image_document(image) for image in found]}, indent=2))
    return code


def image_document(image: Image) -> Mapping[str, object]:
    """One fetched image, for programs."""
    return {
        "reference": image.reference,
        "digest": image.digest.text,
        "digest_kind": image.digest.kind,
        "route": image.route,
        "form": image.form,
        "rootfs": image.rootfs,
        "config": plain(image.config),
    }


def _login(username: Optional[str], *, from_stdin: bool) -> Optional[Login]:
    if bool(username) != from_stdin:
        raise InputError("--username and --password-stdin go together", cause="a password on the command line could be read by others")
    if not username:
        return None
    return Login(username, Secret(files.decode(sys.stdin.buffer.readline()).rstrip("\r\n")))


def _each(names: Sequence[str], action: Callable[[str], object]) -> int:
    """Every name gets its turn; the code is that of the last error."""
    code = 0
    for name in names:
        try:
            action(name)
        except GhaError as error:
            complain(error.lines())
            code = error.exit_code
    return code


def ls(argv: Sequence[str], context: Context) -> int:
    """What the store holds."""
    parser = Parser("gha-apptainer image ls", "gha-apptainer image ls", VERBS["ls"][1])
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("-q", "--quiet", action="store_true", help="print digests only")
    chosen = parser.read(argv)
    if chosen is None:
        return 0
    found = images.list_images(context.settings, context.host)
    if chosen.json:
        tell(json.dumps({"version": DOCUMENT, "images": [plain(one) for one in found]}, indent=2))
        return 0
    if chosen.quiet:
        for one in found:
            tell(one.digest)
        return 0
    rows: List[Tuple[str, ...]] = [("IMAGE", "DIGEST", "FORM", "SIZE", "ROUTE", "USED BY")]
    for one in found:
        held = (
            one.trouble or "%d container%s" % (len(one.holders), "" if len(one.holders) == 1 else "s") if one.trouble or one.holders else ""
        )
        rows.append((one.reference or "?", one.digest[:19], one.form, "%.1f MB" % (one.size / 1e6), one.route, held))
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        tell("   ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip())
    return 0


def rm(argv: Sequence[str], context: Context) -> int:
    """Remove images from the store; what a container holds stays."""
    parser = Parser("gha-apptainer image rm", "gha-apptainer image rm ubuntu:24.04", VERBS["rm"][1])
    parser.add_argument("names", metavar="IMAGE", nargs="+", help="a reference, a digest, or the first six or more digits of one")
    chosen = parser.read(argv)
    if chosen is None:
        return 0
    return _each(chosen.names, lambda name: tell("removed " + images.remove_image(name, context.settings, context.host).digest))


def gc(argv: Sequence[str], context: Context) -> int:
    """Make room in the store."""
    parser = Parser("gha-apptainer image gc", "gha-apptainer image gc --unused-for 30", VERBS["gc"][1])
    parser.add_argument("--max-size", metavar="BYTES", help="keep at most this much, such as 20g (the setting store_bytes)")
    parser.add_argument("--unused-for", metavar="DAYS", type=float, help="remove what was not used for so many days")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    chosen = parser.read(argv)
    if chosen is None:
        return 0
    limit = None if chosen.max_size is None else parse_size("--max-size", chosen.max_size)
    idle = None if chosen.unused_for is None else chosen.unused_for * DAY
    findings = images.collect(context.settings, context.host, max_bytes=limit, unused_for=idle)
    if chosen.json:
        tell(json.dumps({"version": DOCUMENT, "findings": [plain(one) for one in findings]}, indent=2))
    else:
        for one in findings:
            tell("%s: %s" % (one.status, one.finding))
    return ImageFailed.exit_code if worst(findings) == FAIL else 0


def push(argv: Sequence[str], context: Context) -> int:
    """Send an image to a registry. The last line on stdout is the manifest's digest."""
    parser = Parser("gha-apptainer image push", "gha-apptainer image push mytool:1 docker://ghcr.io/OWNER/mytool:1", VERBS["push"][1])
    parser.add_argument("source", metavar="IMAGE", help="what was built or pulled here, a directory, or a SIF")
    parser.add_argument("target", metavar="TARGET", help="docker://REGISTRY/NAME:TAG, or oras://REGISTRY/NAME:TAG for a SIF")
    parser.add_argument("--authfile", metavar="FILE", help="logins, as docker's config.json has them (%s)" % AUTHFILE)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    chosen = parser.read(argv)
    if chosen is None:
        return 0
    from gha_apptainer.node.images.pushing import push as send
    from gha_apptainer.node.images.pushing import read_target

    talk = _talk(quiet=chosen.quiet)
    target = read_target(chosen.target)
    image = images.fetch(_plan(context, chosen.source, PULL_IF_NOT_PRESENT), context.login(parse(chosen.source, os.getcwd())), talk)
    with images.use(image, context.settings, context.host, "push-%d" % os.getpid()):
        done = send(image, target, context.settings, context.host, _login_of(chosen.authfile, target, context), talk)
    tell(json.dumps({**_versioned(), **plain(done)}, indent=2) if chosen.json else done.digest)
    return 0


def wait(argv: Sequence[str], context: Context) -> int:
    """Wait until a route shows an image. The last line on stdout is where it lies."""
    example = "gha-apptainer image wait ghcr.io/OWNER/mytool:1@sha256:… --route cvmfs --timeout 2h"
    parser = Parser("gha-apptainer image wait", example, VERBS["wait"][1])
    parser.add_argument("reference", metavar="IMAGE@DIGEST", help="the digest is the manifest's, as push prints it, or the configuration's")
    parser.add_argument("--route", choices=("cvmfs",), required=True, help="the route that shall show it")
    parser.add_argument("--timeout", metavar="DURATION", default="1h", help="how long to wait, such as 90s or 2h (%(default)s)")
    parser.add_argument("--interval", metavar="DURATION", default="1m", help="time between two looks (%(default)s)")
    parser.add_argument("--authfile", metavar="FILE", help="logins, as docker's config.json has them (%s)" % AUTHFILE)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    chosen = parser.read(argv)
    if chosen is None:
        return 0
    from gha_apptainer.node.images.waiting import wait_for

    ref = parse(chosen.reference)
    shown = wait_for(
        ref, context.settings, context.host,
        timeout=duration("--timeout", chosen.timeout), interval=max(1.0, duration("--interval", chosen.interval)),
        login=_login_of(chosen.authfile, ref, context), tell=_talk(quiet=chosen.quiet),
    )  # fmt: skip
    tell(json.dumps({**_versioned(), **plain(shown)}, indent=2) if chosen.json else shown.path)
    return 0


def _talk(*, quiet: bool) -> Callable[[str], None]:
    return (lambda _text: None) if quiet else notes()


def _versioned() -> Dict[str, object]:
    return {"version": DOCUMENT}


def _login_of(path: Optional[str], ref: ImageRef, context: Context) -> Optional[Login]:
    """The login for a registry from the file that was named, else from the one that the environment names."""
    if not path:
        return context.login(ref)
    from gha_apptainer.node.images.credentials import read_login

    return read_login(path, ref)


VERBS: Dict[str, Tuple[Callable[[Sequence[str], Context], int], str]] = {
    "resolve": (resolve, "print which way an image would come"),
    "pull": (pull, "fetch images"),
    "push": (push, "send an image to a registry"),
    "wait": (wait, "wait until a route shows an image"),
    "ls": (ls, "list the images of the store"),
    "rm": (rm, "remove images from the store"),
    "gc": (gc, "make room in the store"),
}
