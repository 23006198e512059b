"""Everything that can be measured, in one place: this project in its forms, and the peers."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from bench.environments import NotInstallableError, python_of
from bench.orders.job import Form, missing

BASELINE = "multiprocessing-P"
"""Ratios of variant P are against this script; those of variant V against ``BASELINE_V``."""
BASELINE_V = "duckdb-V"


@dataclass(frozen=True)
class Entry:
    """Something to run.

    Attributes:
        key: unique; ends in the variant.
        title: for tables.
        variant: P: the author's functions for each record; V: SQL or Arrow.
        module: what Python runs.
        environment: whose interpreter; empty: this project's own.
        arguments: more of them.
        largest: more records than this take too long to be useful.
        form: this project: how the job is written.
    """

    key: str
    title: str
    variant: str
    module: str
    environment: str = ""
    arguments: tuple[str, ...] = ()
    largest: int = 10_000_000
    form: Form | None = None
    tags: frozenset[str] = field(default_factory=frozenset)

    @property
    def is_ours(self) -> bool:
        """Whether it is this project."""
        return self.form is not None

    def python(self) -> str:
        """The interpreter.

        Raises:
            NotInstallableError: it cannot run here, and why.
        """
        if self.form is not None and (lack := missing(self.form)):
            raise NotInstallableError(f"this version has no {lack}")
        return python_of(self.environment) if self.environment else sys.executable


def _ours(key: str, title: str, form: Form, *arguments: str, quick: bool = False, largest: int = 10_000_000) -> Entry:
    options = ["--variant", form.variant, "--form", "fused" if form.fused else "step", *arguments]
    if form.store != "writer":
        options += ["--store", form.store]
    if not form.reads:
        options.append("--no-reads")
    tags = frozenset({"quick"}) if quick else frozenset()
    return Entry(key, title, form.variant, "bench.ours", "", tuple(options), largest, form, tags)


def _peer(name: str, title: str, module: str, variant: str, *arguments: str, largest: int = 10_000_000) -> Entry:
    tags = frozenset({"quick"}) if name in {"multiprocessing", "duckdb"} else frozenset()
    options = ("--variant", variant, *arguments)
    return Entry(f"{name}-{variant}", title, variant, f"bench.peers.{module}", name, options, largest, None, tags)


_MILLION = 1_000_000
_FUSED_V = Form("V", fused=True, store="arrow")

ENTRIES: tuple[Entry, ...] = (
    _ours("ours-step-P", "this project, per step", Form(), quick=True),
    _ours("ours-fused-P", "this project, fused", Form(fused=True), quick=True),
    _ours("ours-step-function-P", "this project, per step, store a function", Form(store="function")),
    _ours("ours-fused-function-P", "this project, fused, store a function", Form(fused=True, store="function")),
    _ours("ours-fused-arrow-P", "this project, fused, store of Arrow blocks", Form(fused=True, store="arrow")),
    _ours("ours-step-noreads-P", "this project, per step, without reads=", Form(reads=False), largest=_MILLION),
    _ours("ours-step-1-P", "this project, per step, one process", Form(), "--workers", "1", largest=_MILLION),
    _ours("ours-fused-1-P", "this project, fused, one process", Form(fused=True), "--workers", "1", largest=_MILLION),
    _ours("ours-step-V", "this project, per step", Form("V", store="arrow"), quick=True),
    _ours("ours-fused-V", "this project, fused", _FUSED_V),
    _ours(
        "ours-fused-nocopy-V",
        "this project, fused, copy=False",
        _FUSED_V,
        "--no-copy",
        quick=True,
    ),
    _peer("multiprocessing", "multiprocessing script", "multiprocessing_pool", "P"),
    _peer("multiprocessing", "multiprocessing script", "multiprocessing_pool", "V"),
    _peer("duckdb", "DuckDB, one process for P", "duckdb_sql", "P", largest=_MILLION),
    _peer("duckdb", "DuckDB", "duckdb_sql", "V"),
    _peer("polars", "Polars, map_elements", "polars_frame", "P", largest=_MILLION),
    _peer("polars", "Polars, streaming", "polars_frame", "V"),
    _peer("daft", "Daft, row-wise function", "daft_frame", "P", largest=_MILLION),
    _peer("daft", "Daft", "daft_frame", "V"),
    _peer("dask", "Dask bag", "dask_bag", "P", largest=_MILLION),
    _peer("dask", "Dask delayed, Arrow", "dask_bag", "V", largest=_MILLION),
    _peer("ray", "Ray Data", "ray_dataset", "P", largest=_MILLION),
    _peer("ray", "Ray Data", "ray_dataset", "V", largest=_MILLION),
    _peer("pyspark", "PySpark local, mapInArrow", "pyspark_local", "P", largest=_MILLION),
    _peer("pyspark", "PySpark local, SQL", "pyspark_local", "V", largest=_MILLION),
    _peer("prefect", "Prefect, mapped tasks", "prefect_flow", "P", largest=_MILLION),
    _peer("dagster", "Dagster, mapped ops in one process", "dagster_job", "P", largest=_MILLION),
)


__all__ = ["BASELINE", "BASELINE_V", "ENTRIES", "Entry", "NotInstallableError"]
