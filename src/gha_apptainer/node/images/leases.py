"""Leases: who does a piece of work just now. They save work, they never decide what is right.

A lease is a small file made by link(2), which is atomic on local, NFS, Lustre and GPFS alike; no file lock is used. Its holder
rewrites it with a higher count; a waiter that sees the same content for EXPIRY seconds of its own monotonic clock takes it over,
so clocks of other machines do not matter. A holder known to be dead (same boot, same pid namespace) is not waited for. Where
two believe that they hold one, both do the work and the later one drops his copy.
"""

from __future__ import annotations

import errno
import os
import random
import select
import signal
import threading
import time
from types import TracebackType
from typing import Callable, Optional, Sequence, Type, TypeVar, Union

from gha_apptainer.domain.documents import to_json
from gha_apptainer.domain.errors import GhaError, TimedOut
from gha_apptainer.node.files import encode, write_once, write_whole
from gha_apptainer.node.images.holder import Holder, myself, read_holder
from gha_apptainer.node.process import reap

RENEW = 10.0
"""Seconds between two signs of life of a holder."""
EXPIRY = 90.0
"""Seconds without a sign of life after which a waiter takes over: several renewals and the attribute caches of network storage."""
WAIT_LIMIT = 4 * 3600.0
"""How long to wait for somebody else's work that does show signs of life, in seconds."""
_LONGEST_POLL = 2.0
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)

T = TypeVar("T")


class Lease:
    """A lease that we hold, to be renewed and released."""

    def __init__(self, path: str, holder: Holder) -> None:
        self.path = path
        self._holder = holder
        self._lock = threading.Lock()
        self._last = time.monotonic()

    def renew(self) -> None:
        """One sign of life, at most every RENEW seconds. Where somebody took the lease over, nothing happens."""
        with self._lock:
            if time.monotonic() - self._last < RENEW:
                return
            self._last = time.monotonic()
            found = read_holder(self.path)
            if found is None or found.token != self._holder.token:
                return
            self._holder = Holder(**{**self._holder.__dict__, "count": self._holder.count + 1})
            write_whole(self.path, encode(to_json(self._holder)))

    def release(self) -> None:
        """Give it back, if it is still ours."""
        with self._lock:
            found = read_holder(self.path)
            if found is not None and found.token == self._holder.token:
                _unlink(self.path)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        self.release()


def try_acquire(path: str, me: Holder) -> Optional[Lease]:
    """The lease, if nobody holds it."""
    data = encode(to_json(me))
    try:
        made = write_once(path, data)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        made = _create(path, data)
    return Lease(path, me) if made else None


def _create(path: str, data: bytes) -> bool:
    """The lease on a file system without links: made and filled in two steps, so that a reader may see it empty for a moment."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return False
    try:
        os.write(handle, data)
    finally:
        os.close(handle)
    return True


def acquire_or_find(
    path: str,
    find: Callable[[], Optional[T]],
    *,
    what: str,
    tell: Callable[[str], None],
    limit: float = WAIT_LIMIT,
    expiry: float = EXPIRY,
    does: str = "fetches",
) -> Union[Lease, T]:
    """Hold the lease at `path`, or find that somebody else did the work meanwhile: `find` gives its result, or None.

    Tells for whom it waits, first at once and then every half minute. Raises TimedOut after `limit` seconds.
    """
    me = myself()
    began = told = time.monotonic()
    seen: Optional[Holder] = None
    since = began
    poll = 0.05
    while True:
        done = find()
        if done is not None:
            return done
        lease = try_acquire(path, me)
        if lease is not None:
            done = find()  # it may have been published between our look and our lease
            if done is None:
                return lease
            lease.release()
            return done
        now = time.monotonic()
        holder = read_holder(path)
        if holder is not None:
            if holder != seen:
                if seen is None or holder.token != seen.token:
                    tell("%s: waiting for %s, which %s it" % (what, holder, does))
                seen, since = holder, now
            if holder.known_dead(me) or now - since > expiry:
                take_away(path, holder, me.token)
                continue
            if now - told > 30:
                told = now
                tell("%s: still waiting for %s (%.0f s)" % (what, holder, now - began))
        if now - began > limit:
            raise TimedOut("%s: waited %.0f s for %s" % (what, now - began, holder), remedy="end that process, then try again")
        time.sleep(poll * (0.5 + random.random()))
        poll = min(_LONGEST_POLL, poll * 1.5)


def take_away(path: str, stale: Holder, token: str) -> bool:
    """Remove the lease of `stale`; tells whether it was that one. `token` names us in the temporary name.

    It is moved aside first and looked at: somebody may have taken it over between our look and our move. Then it is put back.
    """
    aside = "%s.%s.stale" % (path, token)
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return False
    found = read_holder(aside)
    ours = found is None or found.token == stale.token
    if not ours:
        try:
            os.link(aside, path)
        except FileExistsError:
            pass  # a third one was faster; its holder and the one we moved both finish, one copy is dropped
    _unlink(aside)
    return ours


class Ticker:
    """Calls `each` every `interval` seconds from a thread of its own while the block runs: signs of life and progress."""

    def __init__(self, each: Sequence[Callable[[], None]], interval: float = 1.0) -> None:
        self._each = each
        self._interval = interval
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="image-ticker", daemon=True)

    def _run(self) -> None:
        while not self._over.wait(self._interval):
            for call in self._each:
                try:
                    call()
                except (OSError, GhaError):
                    continue  # a missed sign of life costs at most double work

    def __enter__(self) -> Ticker:
        self._thread.start()
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        self._over.set()
        self._thread.join(30)


class Renewer:
    """As Ticker, from a process of its own, for callers that must stay alone in theirs because they fork. It ends with its maker."""

    def __init__(self, each: Sequence[Callable[[], None]], interval: float = 5.0) -> None:
        self._each = each
        self._interval = interval
        self._child = 0
        self._over = -1

    def __enter__(self) -> Renewer:
        waiting, self._over = os.pipe2(os.O_CLOEXEC)
        self._child = os.fork()
        if self._child == 0:
            try:
                os.close(self._over)
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN)  # the whole group may get them; the pipe tells when it is over
                while not select.select([waiting], [], [], self._interval)[0]:
                    for call in self._each:
                        try:
                            call()
                        except (OSError, GhaError):
                            continue
            finally:
                os._exit(0)
        os.close(waiting)
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        os.close(self._over)
        reap(self._child, 30)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
