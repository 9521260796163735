"""A fixed share of a core for a process, by a control group of its own. Linux, where groups may be made (root).

The period is short: the default of 100 ms would by itself make gaps of nearly that length in every call.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .server import BenchmarkError

CGROUPS = Path("/sys/fs/cgroup")
PERIOD_US = 10_000
REMOVE_SECONDS = 5.0  # a group is busy until its last process is reaped


class NoQuotaError(BenchmarkError):
    """This machine, or this user, cannot make control groups."""


@contextmanager
def cpu_quotas(root: Path = CGROUPS) -> Iterator[Callable[[int, float], None]]:
    """`limit(pid, share)`: from now on the process gets at most that share of a core. The processes have ended before
    the end of the block; their groups are removed there, whatever happened.

    Raises NoQuotaError where no group can be made."""
    parent, is_v2 = _parent(root)
    groups: list[Path] = []

    def limit(pid: int, share: float) -> None:
        group = parent / f"rtc-server-benchmark-{os.getpid()}-{pid}"
        quota_us = round(share * PERIOD_US)
        try:
            group.mkdir()
            groups.append(group)
            if is_v2:
                (group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
            else:
                (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (group / "cpu.cfs_quota_us").write_text(str(quota_us))
            (group / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            raise NoQuotaError(f"No CPU quota can be set here: {error}") from error

    try:
        yield limit
    finally:
        left = [group for group in groups if not _is_removed(group)]
        if left:
            raise BenchmarkError(
                f"Control groups could not be removed; rmdir them by hand: {', '.join(map(str, left))}"
            )


def _parent(root: Path) -> tuple[Path, bool]:
    """The group to make ours in, and whether it is of version 2."""
    if (root / "cgroup.controllers").is_file():
        enabled = (root / "cgroup.subtree_control").read_text().split()
        parent, is_v2, is_there = root, True, "cpu" in enabled
    else:
        parent, is_v2, is_there = root / "cpu", False, (root / "cpu" / "cpu.cfs_quota_us").is_file()
    if not is_there or not os.access(parent, os.W_OK):
        raise NoQuotaError(f"No CPU quota can be set here: {parent} has no CPU controller, or is not writable.")
    return parent, is_v2


def _is_removed(group: Path) -> bool:
    deadline = time.monotonic() + REMOVE_SECONDS
    while True:
        try:
            group.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        else:
            return True
