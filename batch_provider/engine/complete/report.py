"""The report of an instance as text, for the task's log and the terminal."""

from __future__ import annotations

from io import StringIO

from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from batch_provider.domain.result import BatchJobResult, StepResult
from batch_provider.domain.text import count

WIDTH = 118


def render_report(result: BatchJobResult) -> str:
    """Counts, a row for each step, the error table (exception, step, count) and the bottleneck."""
    out = StringIO()
    console = Console(file=out, width=WIDTH, color_system=None, legacy_windows=False)
    console.print(Group(*_parts(result)))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _parts(result: BatchJobResult) -> list[RenderableType]:
    parts: list[RenderableType] = [Text(line) for line in _headline(result)]
    if result.steps:
        parts.append(_step_table(result))
    if result.errors:
        parts.append(_error_table(result))
    if (slowest := result.bottleneck) is not None and slowest.seconds > 0:
        parts.append(Text(f"Slowest step: {slowest.name}, {slowest.share:.0%} of the time of all steps"))
    parts += [Text(line) for line in _rerun_lines(result)]
    if result.dead_letters:
        parts.append(Text(f"Dead letters: {result.failed_records:,} records in {len(result.dead_letters)} files"))
    return parts


def _rerun_lines(result: BatchJobResult) -> list[str]:
    """What a rerun kept as it was, and what else somebody may expect otherwise."""
    lines: list[str] = []
    for step in result.steps:
        if step.older_code:
            versions = ", ".join(f"{code}: {records:,}" for code, records in step.older_code.items())
            total = count(sum(step.older_code.values()), "record")
            lines.append(f"Done by older code of step {step.name}, and kept: {total} ({versions})")
        if step.given_up:
            lines.append(
                f"Given up by step {step.name}: {count(step.given_up, 'failed record')} not tried again, as "
                "max_redrives is reached; raise it to try again"
            )
        if step.remark:
            lines.append(f"Step {step.name}: {step.remark}")
    return lines


def _headline(result: BatchJobResult) -> list[str]:
    rate = result.processed_records / result.elapsed_seconds if result.elapsed_seconds else 0.0
    lines = [
        f"Job {result.job}: {result.state}",
        f"Instance {result.job_instance_id}, generation {result.generation or 'none'}",
    ]
    if result.stale:
        lines.append(f"OUT OF DATE: {result.stale}")
    if result.reason:
        lines.append(result.reason)
    lines.append(
        f"{result.total_records:,} records = {result.successful_records:,} successful "
        f"+ {result.failed_records:,} failed + {result.not_run_records:,} not run, "
        f"in {result.elapsed_seconds:,.1f} s ({rate:,.0f} records/s)"
    )
    return lines


def _step_table(result: BatchJobResult) -> Table:
    table = Table(box=SIMPLE, title="Steps", title_justify="left")
    table.add_column("step")
    for name in (
        "received",
        "successful",
        "failed",
        "skipped",
        "not run",
        "records/s",
        "time",
        "share",
        "call mean ± 3σ",
    ):
        table.add_column(name, justify="right")
    for step in result.steps:
        table.add_row(
            escape(step.name),
            *(f"{n:,}" for n in (step.received, step.successful, step.failed, step.skipped, step.not_run)),
            f"{step.records_per_second:,.0f}" if step.records_per_second else "–",
            f"{step.seconds:,.1f} s",
            f"{step.share:.0%}",
            _timing(step),
        )
    return table


def _timing(step: StepResult) -> str:
    if step.mean_call_seconds is None or step.call_deviation_seconds is None:
        return "–"
    mean, spread = step.mean_call_seconds * 1e6, 3 * step.call_deviation_seconds * 1e6
    return f"{mean:,.1f} ± {spread:,.1f} µs" if mean < 1_000 else f"{mean / 1e3:,.1f} ± {spread / 1e3:,.1f} ms"


def _error_table(result: BatchJobResult) -> Table:
    table = Table(box=SIMPLE, title="Errors", title_justify="left")
    table.add_column("exception")
    table.add_column("step")
    table.add_column("count", justify="right")
    table.add_column("for example", overflow="ellipsis", no_wrap=True, max_width=60)
    for error in result.errors:
        table.add_row(escape(error.exception), escape(error.step), f"{error.count:,}", escape(error.sample))
    return table
