"""The system calls as Gramine answers them, by a filter that a process puts on itself.

Where the list is from: Gramine's table of system calls, libos/src/arch/x86_64/libos_table.c at d6ce159, which is a
version that has flock(2). Each entry that has a function there is in _IMPLEMENTED, with its number from Linux's
asm/unistd_64.h; everything else answers ENOSYS. Another version (0fdff36) has capget and capset and no flock, and there
are sources of timerfd that this table does not name yet: these are left out, which is the stricter.

What a call's arguments decide is from the functions themselves, libos/src/sys/libos_*.c of that repository:

    madvise     what concerns forks, dumps and removal is ENOSYS; the rest does nothing, but for MADV_DONTNEED
    mlock...    do nothing and succeed
    fcntl       descriptors, flags and record locks; open file descriptions' locks, leases and seals are EINVAL
    flock       ENOSYS, unless the manifest switches an experiment on
    fallocate   mode 0 only
    openat      a folder is not opened for writing, and that is what O_TMPFILE asks for: EISDIR
    socket      AF_UNIX, AF_INET, AF_INET6; SOCK_STREAM and SOCK_DGRAM
    socketpair  AF_UNIX and SOCK_STREAM
    clone       another process is refused with EAGAIN where the manifest says sys.disallow_subprocesses

Here two things are narrower than in Gramine. socket() refuses AF_UNIX altogether, since there it reaches only the
enclave's own processes and a filter cannot see an address. execve() is refused, since the enclave's files have no
program but the one that runs. One is wider: rseq() is let through, for the C library has used it before the filter is
there, and ends a process in which it then stops working.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from typing import Final

from tests.fakes.seccomp import ALLOW, Case, install, refuse, unless, when

_IMPLEMENTED: Final = """
    0 read 1 write 2 open 3 close 4 stat 5 fstat 6 lstat 7 poll 8 lseek 9 mmap 10 mprotect 11 munmap 12 brk
    13 rt_sigaction 14 rt_sigprocmask 15 rt_sigreturn 16 ioctl 17 pread64 18 pwrite64 19 readv 20 writev 21 access
    22 pipe 23 select 24 sched_yield 26 msync 27 mincore 28 madvise 32 dup 33 dup2 34 pause 35 nanosleep
    36 getitimer 37 alarm 38 setitimer 39 getpid 40 sendfile 41 socket 42 connect 43 accept 44 sendto 45 recvfrom
    46 sendmsg 47 recvmsg 48 shutdown 49 bind 50 listen 51 getsockname 52 getpeername 53 socketpair 54 setsockopt
    55 getsockopt 56 clone 57 fork 58 vfork 59 execve 60 exit 61 wait4 62 kill 63 uname 72 fcntl 73 flock 74 fsync
    75 fdatasync 76 truncate 77 ftruncate 78 getdents 79 getcwd 80 chdir 81 fchdir 82 rename 83 mkdir 84 rmdir
    85 creat 87 unlink 89 readlink 90 chmod 91 fchmod 92 chown 93 fchown 95 umask 96 gettimeofday 97 getrlimit
    99 sysinfo 102 getuid 104 getgid 105 setuid 106 setgid 107 geteuid 108 getegid 109 setpgid 110 getppid
    111 getpgrp 112 setsid 115 getgroups 116 setgroups 121 getpgid 124 getsid 127 rt_sigpending 128 rt_sigtimedwait
    130 rt_sigsuspend 131 sigaltstack 133 mknod 137 statfs 138 fstatfs 140 getpriority 141 setpriority
    142 sched_setparam 143 sched_getparam 144 sched_setscheduler 145 sched_getscheduler 146 sched_get_priority_max
    147 sched_get_priority_min 148 sched_rr_get_interval 149 mlock 150 munlock 151 mlockall 152 munlockall
    158 arch_prctl 160 setrlimit 161 chroot 170 sethostname 171 setdomainname 186 gettid 200 tkill 201 time
    202 futex 203 sched_setaffinity 204 sched_getaffinity 213 epoll_create 217 getdents64 218 set_tid_address
    221 fadvise64 228 clock_gettime 229 clock_getres 230 clock_nanosleep 231 exit_group 232 epoll_wait 233 epoll_ctl
    234 tgkill 237 mbind 247 waitid 257 openat 258 mkdirat 259 mknodat 260 fchownat 262 newfstatat 263 unlinkat
    264 renameat 267 readlinkat 268 fchmodat 269 faccessat 270 pselect6 271 ppoll 273 set_robust_list
    274 get_robust_list 281 epoll_pwait 284 eventfd 285 fallocate 288 accept4 290 eventfd2 291 epoll_create1
    292 dup3 293 pipe2 299 recvmmsg 302 prlimit64 307 sendmmsg 309 getcpu 318 getrandom 325 mlock2
"""
_WORDS: Final = _IMPLEMENTED.split()
NUMBERS: Final = {name: int(number) for number, name in zip(_WORDS[::2], _WORDS[1::2], strict=True)}

_SOCKET_TYPE: Final = 0xF  # the rest are flags
_CLONE_THREAD: Final = 0x10000
_O_TMPFILE: Final = os.O_TMPFILE & ~os.O_DIRECTORY

# MADV_NORMAL, RANDOM, SEQUENTIAL, WILLNEED, FREE, MERGEABLE, UNMERGEABLE, HUGEPAGE, NOHUGEPAGE, SOFT_OFFLINE
_ADVICE_WITHOUT_EFFECT: Final = (0, 1, 2, 3, 8, 12, 13, 14, 15, 101)
# MADV_REMOVE, DONTFORK, DOFORK, DONTDUMP, DODUMP, WIPEONFORK, KEEPONFORK, HWPOISON
_ADVICE_NOT_IMPLEMENTED: Final = (9, 10, 11, 16, 17, 18, 19, 100)
_MADV_DONTNEED: Final = 4
_FCNTL: Final = (
    *(fcntl.F_DUPFD, fcntl.F_DUPFD_CLOEXEC, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_SETFL),
    *(fcntl.F_GETLK, fcntl.F_SETLK, fcntl.F_SETLKW, fcntl.F_SETOWN),
)

SYS_RSEQ: Final = 334

_ALLOWED: Final = Case(ALLOW)
_NO_EFFECT: Final = Case(refuse(0))
_NO_SUCH_CALL: Final = Case(refuse(errno.ENOSYS))
_NO_PROCESS: Final = Case(refuse(errno.EAGAIN))

_NARROWED: Final[dict[str, tuple[Case, ...]]] = {
    "madvise": (
        when(2, _ADVICE_WITHOUT_EFFECT, refuse(0)),
        when(2, _ADVICE_NOT_IMPLEMENTED, refuse(errno.ENOSYS)),
        unless(2, (_MADV_DONTNEED,), refuse(errno.EINVAL)),
        _ALLOWED,
    ),
    **dict.fromkeys(("mlock", "mlock2", "mlockall", "munlock", "munlockall"), (_NO_EFFECT,)),
    "fcntl": (unless(1, _FCNTL, refuse(errno.EINVAL)), _ALLOWED),
    "flock": (_NO_SUCH_CALL,),
    "fallocate": (unless(1, (0,), refuse(errno.ENOSYS)), _ALLOWED),
    "open": (when(1, (_O_TMPFILE,), refuse(errno.EISDIR), _O_TMPFILE), _ALLOWED),
    "openat": (when(2, (_O_TMPFILE,), refuse(errno.EISDIR), _O_TMPFILE), _ALLOWED),
    "socket": (
        unless(0, (socket.AF_INET, socket.AF_INET6), refuse(errno.EAFNOSUPPORT)),
        unless(1, (socket.SOCK_STREAM, socket.SOCK_DGRAM), refuse(errno.EPROTONOSUPPORT), _SOCKET_TYPE),
        _ALLOWED,
    ),
    "socketpair": (
        unless(0, (socket.AF_UNIX,), refuse(errno.EAFNOSUPPORT)),
        unless(1, (socket.SOCK_STREAM,), refuse(errno.EPROTONOSUPPORT), _SOCKET_TYPE),
        _ALLOWED,
    ),
    "clone": (unless(0, (_CLONE_THREAD,), refuse(errno.EAGAIN), _CLONE_THREAD), _ALLOWED),
    **dict.fromkeys(("fork", "vfork"), (_NO_PROCESS,)),
    "execve": (Case(refuse(errno.EACCES)),),
}


def answer_as_gramine() -> None:
    """For this process, from now on: there is no way back."""
    calls = {number: _NARROWED.get(name, (_ALLOWED,)) for name, number in NUMBERS.items()}
    install(calls | {SYS_RSEQ: (_ALLOWED,)}, _NO_SUCH_CALL.answer)
