"""Runs a long-lived job in the background and returns when it says that it is ready.

The process forks before anything else happens, so the job never shares threads or an event loop with its
parent. Until it is ready its errors go to the caller's terminal; afterwards to a log file, which stays when
the job ends with an error, and to the system log where there is one.

Kind: adapter
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from collections.abc import Callable
from pathlib import Path

from encfs.errors import ExitCode

_SYSLOG = "/dev/log"


Job = Callable[[Callable[[], None]], None]


def in_background(job: Job, complain: Callable[..., int], log_file: Path) -> int:
    """Fork; the child runs `job(on_ready)`. The parent returns 0 once ready, else the job's exit code.

    Args:
        job: the work; calls its argument when it is ready.
        complain: prints an error, returns its exit code.
        log_file: written once ready, mode 0600; removed when the job ends well.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os._exit(_run(job, writer, complain, log_file))
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        if pipe.read(1) == b"+":
            return ExitCode.OK
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) or ExitCode.INTERNAL


def _run(job: Job, writer: int, complain: Callable[..., int], log_file: Path) -> int:
    ready = False

    def on_ready() -> None:
        nonlocal ready
        ready = True
        _leave_terminal(log_file)
        os.write(writer, b"+")
        os.close(writer)

    os.setsid()
    try:
        job(on_ready)
    except BaseException as exc:
        if not ready:
            return complain(exc, verbose=False)
        logging.getLogger("encfs").error("ended with an error: %s", exc)
        return ExitCode.DRIVER
    log_file.unlink(missing_ok=True)
    return ExitCode.OK


def _leave_terminal(log_file: Path) -> None:
    """Let go of the caller's standard streams, so that a pipe to it can end, and log elsewhere."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.setLevel(min(root.level, logging.INFO))
    fd = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    to_file = logging.StreamHandler(os.fdopen(fd, "w"))
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root.addHandler(to_file)
    if os.path.exists(_SYSLOG):
        root.addHandler(logging.handlers.SysLogHandler(_SYSLOG))
