"""The system calls that Python 3.9 lacks, each raising OSError with its name. Imports nothing but `foreign` and os.

Constants are those of linux/sched.h, linux/mount.h, linux/prctl.h and linux/capability.h; they are the same on x86_64 and aarch64.
"""

from __future__ import annotations

import os

from gha_apptainer.node.engine import foreign
from gha_apptainer.node.engine.foreign import Int, Long, Text, UInt, ULong, UShort

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PARENT = 0x00008000
SIGCHLD = 17

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC = 1, 2, 4, 8, 32, 4096, 16384
MS_PRIVATE, MS_SLAVE = 1 << 18, 1 << 19
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_READ, PR_CAPBSET_DROP = 1, 4, 23, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 36, 38, 22
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
SECCOMP_MODE_FILTER = 2

# man 7 capabilities; the set is Docker's default, https://docs.docker.com/engine/containers/run/#runtime-privilege-and-linux-capabilities
DOCKER_CAPABILITIES = sum(1 << bit for bit in (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31))
LAST_CAPABILITY = 63

_KEYCTL = {"x86_64": 250, "aarch64": 219}
_CLOSE_RANGE, _MOUNT_SETATTR = 436, 442
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_CLONE = {"x86_64": 56, "aarch64": 220}
KEYCTL_JOIN_SESSION_KEYRING = 1

_libc = foreign.Library()
_libc.syscall.restype = Long


def _check(result: int, what: str) -> int:
    if result < 0:
        number = foreign.get_errno()
        raise OSError(number, "%s: %s" % (what, os.strerror(number)))
    return result


def unshare(flags: int) -> None:
    """man 2 unshare."""
    _check(_libc.unshare(Int(flags)), "unshare")


def setns(handle: int, kind: int) -> None:
    """man 2 setns."""
    _check(_libc.setns(Int(handle), Int(kind)), "setns")


def prctl(option: int, second: int = 0, third: int = 0) -> None:
    """man 2 prctl."""
    zero = ULong(0)
    _check(_libc.prctl(Int(option), ULong(second), ULong(third), zero, zero), "prctl %d" % option)


def mount(source: bytes, target: bytes, kind: bytes, flags: int, data: bytes = b"") -> None:
    """man 2 mount."""
    done = _libc.mount(source or None, target, kind or None, ULong(flags), data or None)
    _check(done, "mount %s" % os.fsdecode(target))


class _MountAttributes(foreign.Structure):
    _fields_ = [(name, ULong) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def set_mount_attributes(path: bytes, attributes: int) -> None:
    """man 2 mount_setattr, for every mount at and below `path` at once; ENOSYS before Linux 5.12."""
    wanted = _MountAttributes(attributes, 0, 0, 0)
    number, size = Long(_MOUNT_SETATTR), ULong(foreign.sizeof(wanted))
    done = _libc.syscall(number, Int(_AT_FDCWD), path, UInt(_AT_RECURSIVE), foreign.byref(wanted), size)
    _check(done, "mount_setattr %s" % os.fsdecode(path))


def unmount(target: bytes, flags: int = MNT_DETACH) -> None:
    """man 2 umount2."""
    _check(_libc.umount2(target, Int(flags)), "umount %s" % os.fsdecode(target))


def allocate(handle: int, size: int) -> None:
    """man 2 fallocate: reserve the first `size` bytes of a file; never by writing them, as posix_fallocate(3) may do."""
    offset = Long
    _check(_libc.fallocate(Int(handle), Int(0), offset(0), offset(size)), "fallocate")


def set_hostname(name: bytes) -> None:
    """man 2 sethostname."""
    _check(_libc.sethostname(name, ULong(len(name))), "sethostname")


def sealed_memory_file(name: str, data: bytes) -> int:
    """A memfd that holds `data` and can never change, close-on-exec. man 2 memfd_create, F_ADD_SEALS."""
    import fcntl

    handle = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(handle, data)
    fcntl.fcntl(handle, 1033, 0xF)  # F_ADD_SEALS: seal, shrink, grow, write
    return handle


def close_from(first: int) -> None:
    """Close every descriptor from `first` on."""
    if _libc.syscall(Long(_CLOSE_RANGE), UInt(first), UInt(0xFFFFFFFF), UInt(0)) == 0:
        return
    for name in os.listdir("/proc/self/fd"):  # kernels before 5.9
        if int(name) >= first:
            try:
                os.close(int(name))
            except OSError:
                pass


def close_others(keep: set[int]) -> None:
    """Close every descriptor that is not in `keep`."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keep:
            try:
                os.close(int(name))
            except OSError:
                pass  # the listing's own


def new_session_keyring() -> None:
    """Leave the caller's session keyring for an empty one; a kernel without keyrings has none to leave."""
    number = _KEYCTL.get(os.uname().machine)
    if number is not None:
        _libc.syscall(Long(number), Long(KEYCTL_JOIN_SESSION_KEYRING), None)


def fork_sibling() -> int:
    """fork(2) whose child has our parent as its parent (CLONE_PARENT); 0 in the child.

    The caller must be single-threaded and the child must soon exec: Python's own after-fork hooks do not run.
    """
    number = _CLONE[os.uname().machine]
    zero = Long(0)
    return _check(_libc.syscall(Long(number), Long(CLONE_PARENT | SIGCHLD), zero, zero, zero, zero), "clone")


class _Header(foreign.Structure):
    _fields_ = [("version", UInt), ("pid", Int)]


class _Data(foreign.Structure):
    _fields_ = [("effective", UInt), ("permitted", UInt), ("inheritable", UInt)]


def limit_capabilities(allowed: int) -> None:
    """Cut bounding, inheritable and ambient sets, and then permitted and effective, to `allowed` (a bit mask)."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header, data = _Header(0x20080522, 0), (_Data * 2)()
    _check(_libc.capget(foreign.byref(header), foreign.byref(data)), "capget")
    held = data[0].permitted | data[1].permitted << 32
    for bit in range(LAST_CAPABILITY + 1):
        if not allowed >> bit & 1:
            try:
                prctl(PR_CAPBSET_DROP, bit)
            except OSError:
                break  # past the kernel's last capability; an earlier failure shows below
    kept = held & allowed
    for index in (0, 1):
        word = kept >> 32 * index & 0xFFFFFFFF
        data[index] = _Data(word, word, 0)
    header = _Header(0x20080522, 0)
    _check(_libc.capset(foreign.byref(header), foreign.byref(data)), "capset")
    for bit in range(LAST_CAPABILITY + 1):
        if not allowed >> bit & 1 and _libc.prctl(Int(PR_CAPBSET_READ), ULong(bit), None, None, None) == 1:
            raise OSError(1, "the capability bounding set could not be cut")


class _Filter(foreign.Structure):
    _fields_ = [("length", UShort), ("program", Text)]


def install_filter(program: bytes) -> None:
    """Install a seccomp filter, an array of struct sock_filter (8 bytes each); needs no_new_privs first."""
    code = _Filter(len(program) // 8, program)
    _check(_libc.prctl(Int(PR_SET_SECCOMP), ULong(SECCOMP_MODE_FILTER), foreign.byref(code), None, None), "seccomp")
