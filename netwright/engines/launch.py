"""Becomes another program: drops to an account, ties its life to its parent's, and executes.

Run by path with `python -I -S`, as the child that is about to become an engine. It is a program and no function because
what must happen between fork and exec is not safe in a process with threads, and because an account that cannot read
the virtual environment could not start Python itself.

    launch.py PARENT SIGNAL UID:GID|- DIRECTORY PROGRAM ARGUMENT…
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main(parent: str, signal: str, account: str, directory: str, *command: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if account != "-":
        uid, gid = (int(part) for part in account.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if hasattr(libc, "prctl"):  # Linux; elsewhere an orphan stays and is adopted by the next start
        libc.prctl(PR_SET_PDEATHSIG, int(signal), 0, 0, 0)  # after setuid, which clears it
        if os.getppid() != int(parent):
            sys.exit("the parent is gone")
    os.umask(0o077)
    os.chdir(directory)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
