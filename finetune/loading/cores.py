"""How many cores this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_PROC = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """Cores at hand: fewer than the machine has under a batch system or in a container.

    Of the machine's cores, those that this process may run on, and no more than the time it is given: containers are
    usually limited by a quota of time, which neither `os.cpu_count` nor the affinity tells.

    Returns:
        At least 1; a share of a core counts as one.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(quota) for quota in cpu_quotas())]))


def cpu_quotas(proc: Path = _PROC, mount: Path = _MOUNT) -> Iterator[float]:
    """Cores' worth of time by the control groups of this process and those around it, where there is a limit.

    Args:
        proc: Names the groups.
        mount: Where they lie. https://docs.kernel.org/admin-guide/cgroup-v2.html, `cpu.max`;
            https://docs.kernel.org/scheduler/sched-bwc.html, `cpu.cfs_quota_us`, for the first version.
    """
    for line in _read(proc).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = mount / "cpu" if controllers else mount
        group = PurePosixPath(path.lstrip("/"))
        for folder in (root / part for part in (group, *group.parents)):
            if controllers:
                words = [_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")]
            else:
                words = _read(folder / "cpu.max").split()
            if len(words) == 2 and all(word.strip().isdigit() for word in words):  # "max" and -1 are no limit
                yield int(words[0]) / int(words[1])


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
