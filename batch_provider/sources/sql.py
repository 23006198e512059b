"""The result of a query as a source, through an Airflow connection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass, fields, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

from batch_provider.domain.errors import BatchError, InvalidOptionError, SourceError
from batch_provider.domain.options import check_choice, check_count, set_frozen
from batch_provider.sources.options import EXTRA_COLUMNS, shorten, show_schema
from batch_provider.sources.sql_text import selects_everything
from batch_provider.sources.transient import retrying

if TYPE_CHECKING:
    from batch_provider.engine.ports.store import SourceAccess
    from batch_provider.sources.intake import Intake, Locate, Piece

_SHOWN_QUERY = 120
_WRONG_QUERY = frozenset({"ProgrammingError", "DataError", "NotSupportedError", "IntegrityError"})
"""What PEP 249 calls the errors that another attempt would meet again; every driver has classes of its own."""


@dataclass(frozen=True, repr=False)
class Sql:
    """The rows that a query gives.

    Attributes:
        conn_id: the Airflow connection.
        query: one SELECT that names its columns; may hold Jinja. ``SELECT *`` needs a schema.
        parameters: bound to the query by the driver, in its own style; may hold Jinja.
        schema: the contract: column → type or name of a type, or a ``pyarrow.Schema``.
        extra_columns: what becomes of columns that are not in the schema: keep, drop or refuse.
        batch_size: rows fetched at a time.
    """

    conn_id: str
    query: str
    _: KW_ONLY
    parameters: Mapping[str, Any] | Sequence[Any] | None = None
    schema: Any = None
    extra_columns: str = "keep"
    batch_size: int = 10_000

    def __post_init__(self) -> None:
        """Refuse options that cannot work."""
        for option in ("conn_id", "query"):
            value = getattr(self, option)
            if not isinstance(value, str) or not value.strip():
                raise InvalidOptionError(option, value, "a text that is not empty")
        if self.parameters is not None and not isinstance(self.parameters, (Mapping, list, tuple)):
            raise InvalidOptionError("parameters", type(self.parameters).__name__, "a mapping, list or tuple")
        check_count("batch_size", self.batch_size, minimum=1, maximum=1_000_000)
        check_choice("extra_columns", self.extra_columns, EXTRA_COLUMNS)
        if self.schema is not None:
            from batch_provider.sources.coerce import as_schema

            set_frozen(self, "schema", as_schema(self.schema))
        elif selects_everything(self.query):
            raise InvalidOptionError(
                "query",
                shorten(self.query, _SHOWN_QUERY),
                "the names of the columns instead of *, or pass schema=: a column added to the table later would "
                "change the records in silence",
            )

    def describe(self) -> str:
        """The connection, and no word of the query: it may hold personal data."""
        return f"query on connection {self.conn_id!r}"

    def template_values(self) -> dict[str, Any]:
        """The options that may hold Jinja."""
        return {"query": self.query, "parameters": self.parameters}

    def with_template_values(self, values: Mapping[str, Any]) -> Self:
        """The same source with those options rendered."""
        return replace(self, **values)

    def read(self, access: SourceAccess) -> Iterator[Piece]:
        """Stream the rows, through a cursor on the server where the driver has one.

        Raises:
            SourceError: the database cannot be reached, or refuses the query.
        """
        from batch_provider.sources.intake import Intake

        intake = Intake(self.describe(), self.schema, self.extra_columns)
        with ExitStack() as stack:
            try:
                connection = retrying(lambda: stack.enter_context(access.database(self.conn_id)))
                cursor = _cursor(connection)  # ends with its connection: closing a failed one hides the failure
                cursor.execute(self.query, *([] if self.parameters is None else [self.parameters]))
                rows = cursor.fetchmany(self.batch_size)
                names = self._names(cursor.description)
            except Exception as error:
                raise self._failed(error, 0) from error
            intake.admit(names)
            intake.check_demands()
            yield from self._rows(cursor, rows, names, intake)

    def _rows(self, cursor: Any, rows: Sequence[Any], names: list[str], intake: Intake) -> Iterator[Piece]:
        before = 0
        while True:
            columns = dict(zip(names, zip(*rows, strict=True) if rows else [()] * len(names), strict=True))
            yield from intake.from_values(columns, len(rows), _place(before + 1, names, rows))
            before += len(rows)
            if len(rows) < self.batch_size:
                return
            try:
                rows = cursor.fetchmany(self.batch_size)
            except Exception as error:
                raise self._failed(error, before) from error
            if not rows:
                return

    def _names(self, description: Sequence[Sequence[Any]] | None) -> list[str]:
        if not description:
            raise SourceError(self.describe(), "it gives no rows. Use a SELECT.", retryable=False)
        names = [column[0] for column in description]
        for name in names:
            if not name:
                raise SourceError(self.describe(), "a column has no name. Give it one with AS.", retryable=False)
        return names

    def _failed(self, error: Exception, rows: int) -> BatchError:
        if isinstance(error, BatchError):
            return error
        wrong = any(kind.__name__ in _WRONG_QUERY for kind in type(error).__mro__)
        return SourceError(
            self.describe(),
            f"{type(error).__name__} after {rows:,} rows: {str(error).strip()}. "
            + ("Correct the query or its parameters." if wrong else "Check the database and the query."),
            retryable=not wrong,
        )

    def __repr__(self) -> str:
        """What was declared, without parameters; the same in every process."""
        parts = [repr(self.conn_id), repr(shorten(self.query, _SHOWN_QUERY))]
        for option in fields(self)[2:]:
            value = getattr(self, option.name)
            if value != option.default and option.name != "parameters":
                parts.append(f"{option.name}={show_schema(value) if option.name == 'schema' else value!r}")
        return f"Sql({', '.join(parts)})"


def _place(first: int, names: Sequence[str], rows: Sequence[Any]) -> Locate:
    from batch_provider.sources.intake import as_text

    return lambda at: (first + at, as_text(dict(zip(names, rows[at], strict=True))))


def _cursor(connection: Any) -> Any:
    """A cursor that leaves the rows on the server, where the driver needs to be asked for that."""
    kinds = connection.__class__.__mro__  # __class__: a wrapped connection names the real one, which may be a subclass
    drivers = [kind.__module__.partition(".")[0] for kind in kinds]
    if not {"psycopg", "psycopg2"}.isdisjoint(drivers):
        return connection.cursor("batch_provider", withhold=bool(connection.autocommit))
    for driver in {"MySQLdb", "pymysql"}.intersection(drivers):
        return connection.cursor(import_module(f"{driver}.cursors").SSCursor)
    return connection.cursor()
