"""Records that are in memory already, or come from Python code: dicts, generators, tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from batch_provider.domain.errors import BatchError, SourceError, UnsupportedPayloadError
from batch_provider.domain.names import RESERVED_COLUMNS
from batch_provider.domain.options import check_choice, set_frozen
from batch_provider.sources.options import EXTRA_COLUMNS, is_reference, show_schema

if TYPE_CHECKING:
    import pyarrow as pa

    from batch_provider.engine.ports.store import MalformedRecord, SourceAccess
    from batch_provider.sources.intake import Intake, Piece

_BLOCK = 10_000
_CONVERT = "a list of dicts, a generator of dicts or an Arrow table"


@dataclass(frozen=True, repr=False, eq=False)
class Records:
    """Records in memory.

    Attributes:
        records: an iterable of dicts; an Arrow table, batch or reader; whatever has the Arrow PyCapsule interface,
            such as a pandas or polars data frame; a function without arguments that returns one of these; or the
            output of a task. A generator can be read once, a function any number of times.
        schema: the contract: column → type or name of a type, or a ``pyarrow.Schema``.
        extra_columns: what becomes of columns that are not in the schema: keep, drop or refuse.
    """

    records: Any
    _: KW_ONLY
    schema: Any = None
    extra_columns: str = "keep"
    _consumed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Refuse options that cannot work."""
        check_choice("extra_columns", self.extra_columns, EXTRA_COLUMNS)
        if self.schema is not None:
            from batch_provider.sources.coerce import as_schema

            set_frozen(self, "schema", as_schema(self.schema))

    def describe(self) -> str:
        """What the records are held in."""
        return "the output of a task" if is_reference(self.records) else f"records ({type(self.records).__name__})"

    def template_values(self) -> dict[str, Any]:
        """The records, if only Airflow can say what they are; never the records themselves."""
        unknown = is_reference(self.records) or isinstance(self.records, str)
        return {"records": self.records} if unknown else {}

    def with_template_values(self, values: Mapping[str, Any]) -> Self:
        """The same source with the records that a task gave."""
        return replace(self, **values) if values else self

    def read(self, access: SourceAccess) -> Iterator[Piece]:  # noqa: ARG002  # the port's signature
        """Stream the records.

        Raises:
            SourceError: the code that gives the records failed, or has given them already.
            UnsupportedPayloadError: it is nothing that can be split into records.
        """
        from batch_provider.sources.intake import Intake

        intake = Intake(self.describe(), self.schema, self.extra_columns)
        is_function = _is_function(self.records)
        payload = _guarded(self.describe(), 0, self.records) if is_function else self.records
        _check_payload(payload)
        if not is_function:
            self._consume(payload)
        if (reader := _arrow(payload)) is not None:
            yield from self._read_arrow(reader, intake)
        else:
            yield from self._read_rows(iter(payload), intake)

    def _consume(self, payload: object) -> None:
        if not isinstance(payload, Iterator) and not hasattr(payload, "read_next_batch"):
            return
        if self._consumed:
            raise SourceError(
                self.describe(),
                "they have been read already and cannot be read again. Pass a list, or a function that makes a new "
                "generator: Records(lambda: generate()).",
                retryable=False,
            )
        set_frozen(self, "_consumed", True)

    def _read_arrow(self, reader: pa.RecordBatchReader, intake: Intake) -> Iterator[Piece]:
        from batch_provider.sources.intake import place_batch

        intake.admit(reader.schema.names)
        intake.check_demands()
        before = 0
        for batch in _all(self.describe(), reader):
            yield from intake.from_arrow(batch, place_batch(before + 1, batch))
            before += batch.num_rows
        if not before:
            yield from intake.nothing(reader.schema)

    def _read_rows(self, elements: Iterator[Any], intake: Intake) -> Iterator[Piece]:
        from batch_provider.sources.intake import place_rows

        before = count = 0
        stream = _all(self.describe(), elements)
        while block := list(islice(stream, _BLOCK)):
            rows, where, others = _sort_out(block, before + 1)
            before += len(block)
            count += len(rows)
            yield from intake.from_rows(rows, place_rows(where, rows), others)
        if count:
            intake.check_demands()

    def __repr__(self) -> str:
        """What was declared, without the records; the same in every process."""
        parts = [self.describe()]
        if self.schema is not None:
            parts += [f"schema={show_schema(self.schema)}", f"extra_columns={self.extra_columns!r}"]
        return f"Records({', '.join(parts)})"


def _is_function(records: object) -> bool:
    return callable(records) and not isinstance(records, (type, Iterable)) and _arrow_method(records) is None


def _arrow_method(payload: object) -> str | None:
    return next((name for name in ("__arrow_c_stream__", "__arrow_c_array__") if hasattr(payload, name)), None)


def _check_payload(payload: object) -> None:
    """Raise unless the payload can be split into records."""
    kind = f"A payload of type {type(payload).__name__}"
    if isinstance(payload, Mapping):
        raise UnsupportedPayloadError(kind, "a list of dicts, such as [record],")
    if _arrow_method(payload) is not None:
        return
    if hasattr(payload, "to_dict") and hasattr(payload, "columns"):
        raise UnsupportedPayloadError(kind, "an Arrow table, such as pyarrow.Table.from_pandas(frame),")
    if isinstance(payload, (str, bytes, bytearray, memoryview)) or not isinstance(payload, Iterable):
        raise UnsupportedPayloadError(kind, _CONVERT)


def _arrow(payload: Any) -> pa.RecordBatchReader | None:
    """A reader of the payload, if it is a table of any kind."""
    import pyarrow as pa

    method = _arrow_method(payload)
    if method is None:
        return None
    try:
        if isinstance(payload, pa.RecordBatchReader):
            return payload
        if method == "__arrow_c_stream__":
            return pa.RecordBatchReader.from_stream(payload)
        batch = pa.record_batch(payload)
        return pa.RecordBatchReader.from_batches(batch.schema, [batch])
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise UnsupportedPayloadError(f"A {type(payload).__name__} that is no table ({error})", _CONVERT) from error


def _guarded(source: str, count: int, call: Callable[[], Any]) -> Any:
    """Call the code that gives records; what it raises becomes a source error."""
    try:
        return call()
    except (BatchError, StopIteration):
        raise
    except Exception as error:
        raise SourceError(
            source, f"the code that gives them raised {type(error).__name__}: {error}, after {count:,} of them."
        ) from error


def _all(source: str, elements: Iterable[Any]) -> Iterator[Any]:
    iterator = iter(elements)
    count = 0
    while True:
        try:
            element = _guarded(source, count, lambda: next(iterator))
        except StopIteration:
            return
        count += 1
        yield element


def _sort_out(block: Sequence[Any], first: int) -> tuple[list[Mapping[str, Any]], list[int], list[MalformedRecord]]:
    """Tell records from what is none."""
    from batch_provider.sources.intake import as_text, malformed

    rows: list[Mapping[str, Any]] = []
    where: list[int] = []
    others: list[MalformedRecord] = []
    known: set[str] = set()
    for position, element in enumerate(block, first):
        if isinstance(element, Mapping):
            problem = None if element.keys() <= known else _wrong_key(element)
        else:
            problem = f"it is {type(element).__name__}, a record is a dict"
        if problem is None:
            known.update(element)
            rows.append(element)
            where.append(position)
        else:
            others.append(malformed(position, as_text(element), f"record {position:,}: {problem}"))
    return rows, where, others


def _wrong_key(record: Mapping[Any, Any]) -> str | None:
    for key in record:
        if not isinstance(key, str) or not key:
            return f"its key {key!r} is no name; keys are strings that are not empty"
        if key in RESERVED_COLUMNS:
            return f"its key {key!r} is reserved; give it another name"
    return None
