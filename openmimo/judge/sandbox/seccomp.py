"""Which system calls a program may make, as a BPF filter (MiMo 3.4.1). Pure: names and numbers in, bytes out.

An allow list: whatever is not named here fails with EPERM, so a program cannot execute another, fork, open a socket,
change a namespace or a mount, trace, or make an object that outlives it. Threads are allowed. The filter is a binary
search over the call's number, because the kernel walks it once for every number when a process takes it on.

Left out: machines other than x86-64 and aarch64; there `filter_for` says so and the judge counts the layer as missing.
"""

from __future__ import annotations

import errno
import struct

AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# fmt: off
_X86_64 = {
    "read": 0, "write": 1, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8, "mmap": 9,
    "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "ioctl": 16,
    "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20, "access": 21, "pipe": 22, "select": 23, "sched_yield": 24,
    "mremap": 25, "madvise": 28, "dup": 32, "dup2": 33, "pause": 34, "nanosleep": 35, "getitimer": 36, "alarm": 37,
    "setitimer": 38, "getpid": 39, "clone": 56, "fork": 57, "vfork": 58, "execve": 59, "exit": 60, "wait4": 61,
    "kill": 62, "uname": 63, "fcntl": 72, "fsync": 74, "fdatasync": 75, "truncate": 76, "ftruncate": 77, "getcwd": 79,
    "chdir": 80, "rename": 82, "mkdir": 83, "rmdir": 84, "creat": 85, "link": 86, "unlink": 87, "readlink": 89,
    "chmod": 90, "fchmod": 91, "umask": 95, "gettimeofday": 96, "getrlimit": 97, "getrusage": 98, "sysinfo": 99,
    "times": 100, "getuid": 102, "getgid": 104, "geteuid": 107, "getegid": 108, "getppid": 110, "getpgrp": 111,
    "getgroups": 115, "getresuid": 118, "getresgid": 120, "rt_sigpending": 127, "rt_sigtimedwait": 128,
    "rt_sigsuspend": 130, "sigaltstack": 131, "arch_prctl": 158, "setrlimit": 160, "gettid": 186, "tkill": 200,
    "time": 201, "futex": 202, "sched_getaffinity": 204, "getdents64": 217, "set_tid_address": 218,
    "restart_syscall": 219, "fadvise64": 221, "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230,
    "exit_group": 231, "tgkill": 234, "waitid": 247, "openat": 257, "mkdirat": 258, "newfstatat": 262, "unlinkat": 263,
    "renameat": 264, "readlinkat": 267, "fchmodat": 268, "faccessat": 269, "pselect6": 270, "ppoll": 271,
    "set_robust_list": 273, "get_robust_list": 274, "fallocate": 285, "dup3": 292, "pipe2": 293, "prlimit64": 302,
    "renameat2": 316, "getrandom": 318, "execveat": 322, "membarrier": 324, "statx": 332, "rseq": 334, "clone3": 435,
    "faccessat2": 439, "open": 2,
}
_AARCH64 = {
    "getcwd": 17, "dup": 23, "dup3": 24, "fcntl": 25, "ioctl": 29, "mkdirat": 34, "unlinkat": 35, "renameat": 38,
    "truncate": 45, "ftruncate": 46, "fallocate": 47, "faccessat": 48, "chdir": 49, "fchmod": 52, "fchmodat": 53,
    "openat": 56, "close": 57, "pipe2": 59, "getdents64": 61, "lseek": 62, "read": 63, "write": 64, "readv": 65,
    "writev": 66, "pread64": 67, "pwrite64": 68, "pselect6": 72, "ppoll": 73, "readlinkat": 78, "newfstatat": 79,
    "fstat": 80, "fsync": 82, "fdatasync": 83, "exit": 93, "exit_group": 94, "waitid": 95, "set_tid_address": 96,
    "futex": 98, "set_robust_list": 99, "get_robust_list": 100, "nanosleep": 101, "getitimer": 102, "setitimer": 103,
    "clock_gettime": 113, "clock_getres": 114, "clock_nanosleep": 115, "sched_getaffinity": 123, "sched_yield": 124,
    "restart_syscall": 128, "kill": 129, "tkill": 130, "tgkill": 131, "sigaltstack": 132, "rt_sigsuspend": 133,
    "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigpending": 136, "rt_sigtimedwait": 137, "rt_sigreturn": 139,
    "getresuid": 148, "getresgid": 150, "times": 153, "getgroups": 158, "uname": 160, "getrlimit": 163,
    "setrlimit": 164, "getrusage": 165, "umask": 166, "gettimeofday": 169, "getpid": 172, "getppid": 173, "getuid": 174,
    "geteuid": 175, "getgid": 176, "getegid": 177, "gettid": 178, "sysinfo": 179, "brk": 214, "munmap": 215,
    "mremap": 216, "clone": 220, "execve": 221, "mmap": 222, "fadvise64": 223, "mprotect": 226, "madvise": 233,
    "wait4": 260, "prlimit64": 261, "renameat2": 276, "getrandom": 278, "execveat": 281, "membarrier": 283,
    "statx": 291, "rseq": 293, "clone3": 435, "faccessat2": 439,
}
NUMBERS = {"x86_64": _X86_64, "aarch64": _AARCH64}
# fmt: on

COMPUTE = frozenset(
    "read write close stat fstat lstat poll lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn "
    "pread64 pwrite64 readv writev access pipe select sched_yield mremap madvise dup dup2 pause nanosleep getitimer "
    "alarm setitimer getpid exit uname fcntl fsync fdatasync ftruncate getcwd chdir readlink umask gettimeofday "
    "getrlimit setrlimit getrusage sysinfo times getuid getgid geteuid getegid getppid getpgrp getgroups getresuid "
    "getresgid rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack arch_prctl gettid time futex sched_getaffinity "
    "getdents64 set_tid_address restart_syscall fadvise64 clock_gettime clock_getres clock_nanosleep exit_group open "
    "openat newfstatat readlinkat faccessat pselect6 ppoll set_robust_list get_robust_list dup3 pipe2 getrandom "
    "membarrier statx rseq faccessat2".split()
)
"""Compute, read files, write to what is open, sleep, run threads."""

SIGNAL = frozenset({"kill", "tkill", "tgkill"})
"""Harmless inside a pid namespace of one's own, and only there."""

BUILD = frozenset(
    "fork vfork clone clone3 execve wait4 waitid truncate rename mkdir rmdir creat link unlink chmod fchmod mkdirat "
    "unlinkat renameat renameat2 fchmodat fallocate prlimit64 ioctl".split()
)
"""What a compiler and a linker need besides: they run other programs and write files."""

_CLONE_THREAD = 0x00010000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF: LD W ABS, JEQ, JGE, JSET, RET (K)
_NUMBER, _ARCHITECTURE, _ARGUMENT_0 = 0, 4, 16  # offsets in struct seccomp_data; little endian: low word first
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_X32_BIT = 0x40000000


def _fail(code: int) -> int:
    return 0x00050000 | code


def filter_for(machine: str, *, signals: bool, execute: bool = False, build: bool = False) -> bytes:
    """A filter as an array of `struct sock_filter`, 8 bytes each.

    Args:
        machine: as `os.uname().machine`.
        signals: allow the calls that send signals: inside a pid namespace they reach the program alone.
        execute: allow `execveat`, with which a compiled program is started from an open file.
        build: allow what a compiler needs.

    Raises:
        ValueError: for a machine whose call numbers are not known here.
    """
    if machine not in NUMBERS:
        raise ValueError(f"no table of system calls for {machine!r}; there are {', '.join(NUMBERS)}")
    numbers = NUMBERS[machine]
    allowed = COMPUTE | (SIGNAL if signals else frozenset()) | (BUILD if build else frozenset())
    allowed |= {"execveat"} if execute or build else frozenset()
    actions = {numbers[name]: [_return(_ALLOW)] for name in allowed if name in numbers}
    if not build:
        actions[numbers["clone"]] = [_jump(_ANY_BIT, _CLONE_THREAD, 0, 1), _return(_ALLOW), _return(_fail(errno.EPERM))]
        actions[numbers["clone"]].insert(0, _load(_ARGUMENT_0))
        # A C library that is told so falls back to clone, whose flags a filter can read.
        actions[numbers["clone3"]] = [_return(_fail(errno.ENOSYS))]
        # Limits of itself alone, and these only downwards: nothing holds the capability to raise them.
        actions[numbers["prlimit64"]] = [
            _load(_ARGUMENT_0), _jump(_EQUAL, 0, 0, 1), _return(_ALLOW), _return(_fail(errno.EPERM)),
        ]  # fmt: skip
        actions[numbers["ioctl"]] = [_return(_fail(errno.ENOTTY))]  # what a file answers; no terminal is ever there
    head = [_load(_ARCHITECTURE), _jump(_EQUAL, AUDIT_ARCHITECTURE[machine], 1, 0), _return(_KILL), _load(_NUMBER)]
    if machine == "x86_64":
        head += [_jump(_AT_LEAST, _X32_BIT, 0, 1), _return(_KILL)]
    denied = [_return(_fail(errno.EPERM))]
    intervals = [(0, denied)]  # from this number on, this action
    for number in range(max(actions) + 2):
        action = actions.get(number, denied)
        if action != intervals[-1][1]:
            intervals.append((number, action))
    return b"".join(head + _search(intervals))


def _search(intervals: list[tuple[int, list[bytes]]]) -> list[bytes]:
    """Instructions that find the accumulator's interval and do its action."""
    if len(intervals) == 1:
        return intervals[0][1]
    middle = len(intervals) // 2
    low, high = _search(intervals[:middle]), _search(intervals[middle:])
    if len(low) <= 255:
        return [_jump(_AT_LEAST, intervals[middle][0], len(low), 0), *low, *high]
    return [_jump(_AT_LEAST, intervals[middle][0], 0, 1), _always(len(low)), *low, *high]


def _load(offset: int) -> bytes:
    return struct.pack("<HBBI", _LOAD, 0, 0, offset)


def _jump(kind: int, value: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("<HBBI", kind, if_true, if_false, value)


def _always(distance: int) -> bytes:
    return struct.pack("<HBBI", 0x05, 0, 0, distance)


def _return(value: int) -> bytes:
    return struct.pack("<HBBI", _RETURN, 0, 0, value)
