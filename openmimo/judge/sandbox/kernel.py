"""What the kernel is asked for, through ctypes: namespaces, a minimal root, Landlock, seccomp, rights (MiMo 3.4.1).

Each function asks for one layer and says whether it was given; `home.py` decides in which order and what is missing.
Linux only. Nothing here is imported by a process that holds expected outputs.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterable, Sequence

NEW_MOUNT, NEW_UTS, NEW_IPC, NEW_USER, NEW_PID, NEW_NETWORK = (
    0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 22, 36, 38
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT, _CLOSE_RANGE = 444, 445, 446, 436  # the same on every machine
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

# PyDLL keeps the interpreter's lock over a call: these are microseconds, and a fork must not lose it.
libc = ctypes.PyDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def fork() -> int:
    """fork(2) without Python's own work around it, which costs a third of a test.

    Only for a process with one thread. What Python would do in the child is to rebuild locks that nobody holds and to
    seed `random` anew; here every child starts from the same state, so that a program's verdict repeats.
    """
    pid = int(libc.fork())
    if pid < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return pid


def merge_modules(maps: str) -> int:
    """Make the extension modules few mappings instead of hundreds: a fork copies each, the end of a process frees each.

    Every segment of a small shared object is replaced by a private copy, readable, writable and executable, so that
    the kernel makes neighbours one. What runs while this does is left alone, and so is whatever is large: its pages are
    better shared. The collector of garbage must be off. About a quarter of a fork's cost.

    Args:
        maps: /proc/self/maps.

    Returns:
        How many mappings were copied; 0 where the machine forbids memory that is writable and executable.
    """
    private_copy = 0x22  # MAP_PRIVATE | MAP_ANONYMOUS
    page = os.sysconf("SC_PAGE_SIZE")
    probe = libc.mmap(None, page, 7, private_copy, -1, 0)
    if probe == ctypes.c_void_p(-1).value:
        return 0
    libc.munmap(probe, page)
    objects: dict[str, list[tuple[int, int]]] = {}
    for line in maps.split("\n"):
        words = line.split(None, 5)
        if len(words) == 6 and ".so" in words[5] and words[1].startswith("r"):
            start, end = (int(word, 16) for word in words[0].split("-"))
            objects.setdefault(words[5], []).append((start, end - start))
    count = 0
    for path, segments in objects.items():
        running = any(name in path for name in ("/_ctypes.", "/libffi", "/libc.", "/libc-", "/ld-", "/libpython"))
        if running or sum(size for _, size in segments) > 400 << 10:
            continue
        for start, size in segments:
            content = ctypes.string_at(start, size)
            if libc.mmap(start, size, 7, private_copy | 0x10, -1, 0) == start:  # MAP_FIXED
                ctypes.memmove(start, content, size)
                count += 1
    return count


def die_with_parent() -> None:
    """Be killed when the parent ends; a change of user forgets it."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def adopt_orphans() -> None:
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def forbid_new_rights() -> None:
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def close_from(first: int) -> None:
    """Close every descriptor from `first` on."""
    libc.syscall(_CLOSE_RANGE, first, 0xFFFFFFFF, 0)


def unshare(flag: int) -> bool:
    return bool(libc.unshare(flag) == 0)


def join_pid_namespace(fd: int) -> None:
    """Let the next child be born there; only from one's own can `unshare(NEW_PID)` make another."""
    libc.setns(fd, NEW_PID)


def become_root_of_user_namespace(proc: int) -> bool:
    """A user namespace whose root is the caller, who had no rights before."""
    texts = {"setgroups": "deny", "uid_map": f"0 {os.getuid()} 1", "gid_map": f"0 {os.getgid()} 1"}

    def become() -> bool:
        return unshare(NEW_USER) and all(_write(proc, f"self/{name}", text) for name, text in texts.items())

    # Somebody else tries first: there is no way back from a namespace that must not have a map.
    pid = os.fork()
    if pid == 0:
        os._exit(0 if become() else 1)
    return os.waitpid(pid, 0)[1] == 0 and become()


def leave_root_for_user_namespace(proc: int) -> bool:
    """Real root goes into a user namespace with two ids, of which the machine knows neither: 0 for us, 1 for programs.

    Another process has to write the map, one that stays outside.
    """
    asked, told = os.pipe(), os.pipe()
    zygote = os.getpid()
    mapper = os.fork()
    if mapper == 0:
        os.close(asked[1])
        ok = False
        if os.read(asked[0], 1) == b"u":
            # Ids nobody has; in a container only few may be there.
            for first in (0x40000000 + 2 * zygote, 20_000 + 2 * (zygote % 20_000)):
                text = f"0 {first} 2"
                ok = _write(proc, f"{zygote}/uid_map", text) and _write(proc, f"{zygote}/gid_map", text)
                if ok:
                    break
        os.write(told[1], b"y" if ok else b"n")
        os._exit(0)
    os.setgroups([])
    if unshare(NEW_USER):
        os.write(asked[1], b"u")
    os.close(asked[1])
    os.close(told[1])
    mapped = os.read(told[0], 1) == b"y"
    os.close(asked[0])
    os.close(told[0])
    os.waitpid(mapper, 0)
    if mapped:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    return mapped


def may_administer() -> bool:
    """Whether we hold CAP_SYS_ADMIN: root in most containers does not."""
    rights = (ctypes.c_uint32 * 6)()
    return bool(libc.capget(_capabilities(), rights) == 0 and rights[0] & 1 << 21)


def drop_rights() -> None:
    """Give up every capability."""
    libc.capset(_capabilities(), (ctypes.c_uint32 * 6)())


def _capabilities() -> ctypes.Array[ctypes.c_uint32]:
    return (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, of this process


def enter_root(
    folders: Iterable[str], *, hidden: Iterable[str] = (), inside: Iterable[str] = (), writable: str = ""
) -> bool:
    """Change into a root that holds some folders, read-only, and nothing else: no /proc, no /tmp, no home.

    It is a memory file system over this mount namespace's /proc, the one folder that hides nothing else.

    Args:
        folders: absolute paths, of files too; those that do not exist are left out.
        hidden: folders within them that shall look empty.
        inside: as `folders`, possibly within what is hidden.
        writable: a folder to make, of 512 MiB in memory; "" for none.
    """
    root = "/proc"
    if os.uname().machine not in _PIVOT_ROOT or libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) != 0:
        return False
    flags = _MS_NOSUID | _MS_NODEV
    if libc.mount(b"none", root.encode(), b"tmpfs", flags, b"size=256k,mode=755") != 0:
        return False
    devices = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
    if not all(_show(path, root) for path in (*folders, *devices)):
        return False
    covers = [(root + path).encode() for path in hidden if os.path.isdir(root + path)]
    if any(libc.mount(b"none", cover, b"tmpfs", flags, b"size=64k,mode=755") for cover in covers):
        return False
    if not all(_show(path, root) for path in inside):
        return False
    if writable:
        os.makedirs(root + writable, exist_ok=True)
        if libc.mount(b"none", (root + writable).encode(), b"tmpfs", flags, b"size=512m,mode=1777") != 0:
            return False
    if any(libc.mount(None, made, None, _MS_REMOUNT | _MS_RDONLY | flags, None) for made in (*covers, root.encode())):
        return False
    # Not chroot: who has changed root may not make a user namespace, and who is root may leave it.
    os.chdir(root)
    if libc.syscall(_PIVOT_ROOT[os.uname().machine], b".", b".") != 0:
        return False
    libc.umount2(b".", 2)  # MNT_DETACH: what was the root before
    os.chdir("/")
    return True


def _show(path: str, root: str) -> bool:
    target = root + path
    if not os.path.exists(path) or os.path.lexists(target):
        return True
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return True
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT))
    if libc.mount(path.encode(), target.encode(), None, _MS_BIND | _MS_REC, None) != 0:
        return False
    read_only = _MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID
    return not os.path.isdir(path) or libc.mount(None, target.encode(), None, read_only | _MS_NODEV, None) == 0


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8


def landlock(read: Sequence[str], *, write: Sequence[str] = (), execute: bool = False) -> int:
    """A Landlock ruleset: read beneath some folders, write beneath others, no network; -1 where the kernel has none.

    Returns:
        A file descriptor for `restrict`.
    """
    version = int(libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1)))
    if version < 1:
        return -1
    files = (1 << (13 + (version >= 2) + (version >= 3) + (version >= 5))) - 1
    ruleset = _Ruleset(files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    fd = int(libc.syscall(_LANDLOCK_CREATE, ctypes.byref(ruleset), ctypes.c_size_t(size), ctypes.c_uint32(0)))
    reading = _READ_FILE | _READ_DIR | (_EXECUTE if execute else 0)
    rules = [(path, reading) for path in read] + [(path, files) for path in write]
    for path, allowed in (*rules, ("/dev/null", _READ_FILE | _WRITE_FILE)):
        try:
            parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        if not os.path.isdir(path):
            allowed &= _EXECUTE | _WRITE_FILE | _READ_FILE
        rule = _Beneath(allowed, parent)
        libc.syscall(_LANDLOCK_ADD, fd, 1, ctypes.byref(rule), ctypes.c_uint32(0))
        os.close(parent)
    return fd


def restrict(ruleset: int) -> bool:
    """Put this process under a Landlock ruleset, for ever."""
    return bool(libc.syscall(_LANDLOCK_RESTRICT, ruleset, ctypes.c_uint32(0)) == 0)


class Filter:
    """A seccomp filter, ready to be taken on."""

    def __init__(self, code: bytes) -> None:
        self.code = code
        self._code = ctypes.create_string_buffer(code, len(code))
        self._program = ctypes.create_string_buffer(16)  # struct sock_fprog
        ctypes.c_uint16.from_buffer(self._program, 0).value = len(code) // 8
        ctypes.c_void_p.from_buffer(self._program, 8).value = ctypes.addressof(self._code)

    def install(self) -> bool:
        """Filter this process's calls, for ever."""
        return bool(libc.prctl(_PR_SET_SECCOMP, 2, self._program, 0, 0) == 0)


def _write(proc: int, name: str, text: str) -> bool:
    try:
        fd = os.open(name, os.O_WRONLY, dir_fd=proc)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError:
        return False
    return True
