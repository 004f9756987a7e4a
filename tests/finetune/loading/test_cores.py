"""Cores at hand: affinity, and the quota of a container."""

import os

import pytest

from finetune.loading import cores, workers
from finetune.loading.cores import available_cores, cpu_quotas


def groups(tmp_path, lines, files):
    (tmp_path / "proc").write_text("".join(f"{line}\n" for line in lines))
    for name, content in files.items():
        path = tmp_path / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return list(cpu_quotas(tmp_path / "proc", tmp_path / "mount"))


V1 = ["5:devices:/a", "3:cpuset:/a", "2:cpu,cpuacct:/a/b", "0::/ignored"]


@pytest.mark.parametrize(
    ("lines", "files", "quotas"),
    [
        (["0::/"], {"cpu.max": "150000 100000"}, [1.5]),
        (["0::/"], {"cpu.max": "max 100000"}, []),
        (["0::/a/b"], {"a/b/cpu.max": "max 100000", "a/cpu.max": "400000 100000", "cpu.max": "50000 100000"}, [4, 0.5]),
        (["0::/outside/the/namespace"], {"cpu.max": "200000 100000"}, [2]),
        (V1, {"cpu/a/b/cpu.cfs_quota_us": "300000", "cpu/a/b/cpu.cfs_period_us": "100000"}, [3]),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, []),
        (["0::/"], {}, []),
        ([], {}, []),
    ],
)
def test_quotas_of_both_versions_of_control_groups(tmp_path, lines, files, quotas):
    assert groups(tmp_path, lines, files) == quotas


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert list(cpu_quotas(tmp_path / "none", tmp_path)) == []


@pytest.mark.parametrize(
    ("affinity", "quotas", "expected"),
    [(8, [], 8), (8, [2.5], 3), (8, [4, 2], 2), (2, [6], 2), (4, [0.3], 1), (1, [], 1)],
)
def test_the_smallest_limit_counts(monkeypatch, affinity, quotas, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    monkeypatch.setattr(cores, "cpu_quotas", lambda: iter(quotas))
    assert available_cores() == expected


@pytest.mark.parametrize(("available", "local", "expected"), [(16, 1, 8), (6, 1, 6), (6, 2, 3), (2, 4, 1)])
def test_workers_share_the_cores(monkeypatch, available, local, expected):
    monkeypatch.setattr(workers, "available_cores", lambda: available)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
    assert workers.default_workers(1000) == expected
    assert workers.default_workers(255) == 0
