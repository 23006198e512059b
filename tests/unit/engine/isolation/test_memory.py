"""A child may take its share of what is free, as the cgroup or the machine says."""

from __future__ import annotations

import resource

import pytest

from batch_provider.engine.isolation.memory import SHARE, bound_memory, free_memory

MB = 2**20


@pytest.fixture
def root(tmp_path):
    """Stands for ``/``."""

    def write(name, text):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return tmp_path

    write("proc/meminfo", f"MemTotal: 9 kB\nMemAvailable: {8_000 * 1024} kB\n")
    return write


def test_without_a_limit_what_the_machine_has_is_free(root):
    assert free_memory(root("proc/self/cgroup", "0::/\n")) == 8_000 * MB


def test_the_tightest_cgroup_of_version_2_counts_and_its_cache_is_free(root):
    root("sys/fs/cgroup/pod/memory.max", f"{500 * MB}\n")
    root("sys/fs/cgroup/pod/memory.current", f"{300 * MB}\n")
    root("sys/fs/cgroup/pod/memory.stat", f"anon 5\ninactive_file {50 * MB}\n")
    root("sys/fs/cgroup/pod/task/memory.max", "max\n")
    assert free_memory(root("proc/self/cgroup", "0::/pod/task\n")) == 250 * MB


def test_a_cgroup_of_version_1_counts(root):
    root("sys/fs/cgroup/memory/pod/memory.limit_in_bytes", f"{400 * MB}\n")
    root("sys/fs/cgroup/memory/pod/memory.usage_in_bytes", f"{450 * MB}\n")
    root("sys/fs/cgroup/memory/pod/memory.stat", "total_inactive_file 0\n")
    assert free_memory(root("proc/self/cgroup", "4:memory:/pod\n2:cpu:/\n")) == 0


def test_where_nothing_tells_nothing_is_bounded(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_DATA)
    assert free_memory(tmp_path) is None
    assert bound_memory(tmp_path) is None
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_the_bound_is_what_the_process_has_and_its_share_of_the_rest(root):
    before = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        bound = bound_memory(root("proc/self/status", f"VmData: {100 * 1024} kB\n"))
        assert bound == 100 * MB + int(8_000 * MB * SHARE)
        assert resource.getrlimit(resource.RLIMIT_DATA)[0] == bound
        root("proc/meminfo", f"MemAvailable: {80_000 * 1024} kB\n")
        assert bound_memory(root("proc/self/status", "Name: x\n")) == bound, "a lower one stays"
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
