"""The columns that a job's expressions and writers name, and those of them that no record can have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from batch_provider.domain.declare import placing
from batch_provider.domain.errors import InvalidOptionError
from batch_provider.domain.spec import JobSpec, SqlSpec, StepSpec, WriterSpec
from batch_provider.engine.expressions.check import check_expression, no_column
from batch_provider.engine.expressions.functions import fold


@dataclass(frozen=True)
class Named:
    """A column that a step names.

    Attributes:
        column: its name, as written.
        expression: that reads it; None: the step's writer is to write it.
    """

    column: str
    expression: str | None

    def is_in(self, columns: Iterable[str]) -> bool:
        """Whether one of these columns is meant: in an expression the case of letters does not matter."""
        if self.expression is None:
            return self.column in set(columns)
        return fold(self.column) in set(map(fold, columns))


def named_by(step: StepSpec) -> list[Named]:
    """The columns that the expressions of a step read, and those that its writer writes."""
    found = [Named(name, text) for text in step.expressions for name in sorted(check_expression(text))]
    if isinstance(step.function, WriterSpec):
        own = [*(getattr(step.writer, "columns", None) or ()), *(getattr(step.writer, "key", None) or ())]
        found += [Named(name, None) for name in dict.fromkeys(own)]
    return found


def written_by(step: StepSpec) -> frozenset[str] | None:
    """The columns that a step may add; None: any, as only its function knows."""
    if isinstance(step.function, SqlSpec):
        return frozenset(step.function.assign)
    if isinstance(step.function, WriterSpec) or step.is_streaming or step.transaction is not None:
        return frozenset()
    return None if step.writes is None else frozenset(step.writes)


def unknown(job: JobSpec, columns: Iterable[str]) -> Iterator[tuple[StepSpec, Named, list[str]]]:
    """What steps name and no record can have: the step, the name, and the columns that there can be.

    Behind a step whose function may add any column nothing can be known.

    Args:
        job: what was declared.
        columns: of the input.
    """
    known = list(columns)
    for step in job.steps:
        yield from ((step, named, known) for named in named_by(step) if not named.is_in(known))
        if (written := written_by(step)) is None:
            return
        known += sorted(written - set(known))


def check_names(job: JobSpec, columns: Iterable[str]) -> None:
    """Refuse a job that names a column which no record can have.

    Raises:
        InvalidExpressionError: one of its expressions does.
        InvalidOptionError: one of its writers does.
    """
    for step, named, known in unknown(job, columns):
        with placing(f" in step {step.name!r} of job {job.name!r}"):
            if named.expression is not None:
                raise no_column(named.expression, named.column, known)
            raise InvalidOptionError("columns or key", named.column, f"columns that there are: {', '.join(known)}")


def contract_columns(job: JobSpec) -> list[str]:
    """The columns that the input's contract names; none without one."""
    schema = getattr(job.source, "schema", None)
    return [] if schema is None else list(schema.names)


def declared_columns(job: JobSpec) -> list[str] | None:
    """The columns of the input, if its contract says that there are no others; else None."""
    is_closed = getattr(job.source, "extra_columns", "keep") != "keep"
    return (contract_columns(job) or None) if is_closed else None
