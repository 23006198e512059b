"""The last stretch of every source: columns by name, the contract, batches of a bounded size."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from batch_provider.domain.errors import SourceError
from batch_provider.domain.names import RESERVED_COLUMNS
from batch_provider.engine.columns.rows import Bad, build_column, unify
from batch_provider.engine.ports.store import MalformedRecord
from batch_provider.sources.coerce import coerce, coerce_values, plain
from batch_provider.sources.options import shorten

Piece: TypeAlias = "pa.RecordBatch | Sequence[MalformedRecord]"
Locate = Callable[[int], tuple[int | None, str]]
"""Position in a block → where it stands in the input, and its text."""

MALFORMED = "MalformedRecord"
"""Not a record at all: a line that cannot be parsed, an element that is no object."""
UNFIT = "UnfitValue"
"""A record with a value that does not fit the type of its column."""

ROWS = 65_536
BYTES = 16 * 2**20
LONGEST_RAW = 65_536


def malformed(line: int | None, raw: str, message: str, error_type: str = MALFORMED) -> MalformedRecord:
    """A malformed record whose text is bounded and can be stored."""
    text = shorten(raw, LONGEST_RAW).encode("utf-8", "backslashreplace").decode()
    return MalformedRecord(line, text, error_type, message.encode("utf-8", "backslashreplace").decode())


def as_text(value: object) -> str:
    """A record that came as Python values, as text: JSON as far as possible."""
    try:
        return json.dumps(value, default=str, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return repr(value)


def place_rows(where: Sequence[int], rows: Sequence[object]) -> Locate:
    """Locate among rows of Python values, each with its position in the input."""
    return lambda at: (where[at], as_text(rows[at]))


def place_batch(first: int, batch: pa.RecordBatch) -> Locate:
    """Locate in a batch whose first row is the ``first`` of the input."""
    return lambda at: (first + at, as_text(batch.slice(at, 1).to_pylist()[0]))


class Intake:
    """Takes blocks of columns or rows and hands on what the source yields.

    It remembers the type of every column, so that later blocks and files get the same one or a wider one. ``rows`` are
    those that were taken from this file, apart from what is no record at all.

    Args:
        source: for messages.
        schema: the contract, in the names that the records get.
        extra_columns: what becomes of columns that the contract does not name: keep, drop or refuse.
        rename: old name → new name.
    """

    def __init__(
        self,
        source: str,
        schema: pa.Schema | None = None,
        extra_columns: str = "keep",
        rename: Mapping[str, str] | None = None,
    ) -> None:
        self.source = source
        self._extra = extra_columns
        self._rename = dict(rename or {})
        fields = list(schema) if schema is not None else []
        old = {new: name for name, new in self._rename.items()}
        self.demanded: dict[str, pa.DataType] = {old.get(f.name, f.name): f.type for f in fields}
        self._has_contract = bool(self.demanded)
        self.required = frozenset(old.get(f.name, f.name) for f in fields if not f.nullable)
        self.types: dict[str, pa.DataType] = dict(self.demanded)
        self._present: dict[str, None] = {}
        self._told: set[str] = set()
        self._pinned = False
        self.rows = 0

    def snapshot(self) -> pa.Schema:
        """The columns, by the names in the input, and what is known of their types by now; null: nothing yet."""
        names = dict.fromkeys([*self.types, *self._present])
        return pa.schema([(name, self.types.get(name, pa.null())) for name in names])

    def pin(self, snapshot: pa.Schema, columns: Collection[str] | None = None) -> None:
        """Read again what was read when this was known: no type is learned or widened from now on.

        Args:
            snapshot: what :meth:`snapshot` gave then.
            columns: only these, by the names in the input; None: all.
        """
        wanted = set(snapshot.names if columns is None else columns)
        self._pinned = True
        self.demanded = {name: kind for name, kind in self.demanded.items() if name in wanted}
        self.required &= wanted
        self.types = {
            field.name: field.type for field in snapshot if field.name in wanted and not pa.types.is_null(field.type)
        }

    @property
    def present(self) -> tuple[str, ...]:
        """The columns of this file."""
        return tuple(self._present)

    def is_fixed(self, name: str) -> bool:
        """Whether values cannot change the type of a column."""
        return self._pinned or name in self.demanded

    def shown(self, columns: pa.Schema) -> pa.Schema:
        """Columns by the names in the input, as the records have them."""
        kept = [field for field in columns if self._is_kept(field.name)]
        return pa.schema([(self._rename.get(field.name, field.name), field.type) for field in kept])

    def _is_kept(self, name: str) -> bool:
        return self._extra != "drop" or not self._has_contract or name in self.demanded

    def begin(self, source: str) -> None:
        """Another file: its columns are counted anew, the types stay known."""
        self.source = source
        self._present = {}
        self.rows = 0

    def admit(self, names: Collection[str]) -> None:
        """Look at columns that are in the input.

        Raises:
            SourceError: one is there twice, has a reserved name, or is refused by the contract.
        """
        if len(names) != len(set(names)):
            twice = next(name for name, times in Counter(names).items() if times > 1)
            self._fail(f"the column {twice!r} is there twice. Rename one of them")
        fresh = [name for name in names if name not in self._present]
        for name in fresh:
            shown = self._rename.get(name, name)
            if shown in RESERVED_COLUMNS:
                self._fail(
                    f"the column {shown!r} has a name that is reserved. Rename it: rename={{{shown!r}: 'another'}} "
                    f"for files, AS in a query"
                )
            if self._extra == "refuse" and self.demanded and name not in self.demanded:
                self._fail(
                    f"the column {name!r} is not in the schema. Add it there, or pass extra_columns='keep' or 'drop'"
                )
            self._present[name] = None
        if fresh:
            shown_names = [self._rename.get(name, name) for name in self._present]
            if len(set(shown_names)) < len(shown_names):
                self._fail(f"rename={self._rename!r} gives two columns the same name")

    def check_demands(self) -> None:
        """See that every column that was asked for has been there.

        Raises:
            SourceError: one has not.
        """
        missing = [name for name in [*self.demanded, *self._rename] if name not in self._present]
        if missing:
            found = ", ".join(map(repr, self._present)) or "none"
            self._fail(
                f"the columns {', '.join(map(repr, dict.fromkeys(missing)))} are demanded but missing; found: {found}. "
                f"Correct the schema or the input"
            )

    def learn(self, name: str, kind: pa.DataType) -> None:
        """Remember the type of a column, unless the contract has one for it."""
        if not self.is_fixed(name) and not pa.types.is_null(kind):
            self.types[name] = kind

    def takes_all(self, columns: pa.Schema) -> bool:
        """Whether every value of such columns is in order whatever it is; then their types are learned."""
        if self.required or any(self.types.get(field.name, field.type) != field.type for field in columns):
            return False
        for field in columns:
            self.learn(field.name, field.type)
        return True

    def from_rows(
        self, rows: Sequence[Mapping[str, Any]], locate: Locate, others: Sequence[MalformedRecord] = ()
    ) -> Iterator[Piece]:
        """Rows of Python values; a column that a row does not have is null there."""
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: [row.get(name) for row in rows] for name in names}
        return self.from_values(columns, len(rows), locate, others)

    def from_values(
        self,
        columns: Mapping[str, Sequence[Any]],
        count: int,
        locate: Locate,
        others: Sequence[MalformedRecord] = (),
    ) -> Iterator[Piece]:
        """Columns of Python values."""
        arrays: dict[str, pa.Array] = {}
        bad: Bad = {}
        for name, values in columns.items():
            if name in self.demanded:
                arrays[name], unfit = coerce_values(values, self.demanded[name])
                self._note(bad, unfit, name, values)
            else:
                arrays[name], unfit = build_column(values, self.types.get(name))
                self.learn(name, arrays[name].type)
                for position, reason in unfit.items():
                    bad.setdefault(position, f"column {name!r}: {reason}{_advice(name)}")
        return self.emit(arrays, count, bad, locate, others)

    def from_arrow(self, batch: pa.RecordBatch, locate: Locate) -> Iterator[Piece]:
        """A batch that has types of its own."""
        arrays: dict[str, pa.Array] = {}
        bad: Bad = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            array = plain(column)
            arrays[name], unfit = self._fit(name, array)
            self._note(bad, unfit, name, array)
        return self.emit(arrays, batch.num_rows, bad, locate)

    def nothing(self, schema: pa.Schema) -> Iterator[Piece]:
        """No records, but columns: steps and reports may want to know them."""
        return self.from_arrow(pa.RecordBatch.from_pylist([], schema), lambda at: (at, ""))

    def _fit(self, name: str, array: pa.Array) -> tuple[pa.Array, Bad]:
        known = self.types.get(name)
        if name in self.demanded or known is None or known == array.type:
            self.learn(name, array.type)
            return coerce(array, self.demanded.get(name, array.type))
        wider = unify(known, array.type)
        if wider is not None:
            self.learn(name, wider)
            return coerce(array, wider)
        taken = np.flatnonzero(array.is_valid().to_numpy(zero_copy_only=False)).tolist()
        return pa.nulls(len(array), known), dict.fromkeys(taken, f"it is {array.type}")

    def _note(self, bad: Bad, unfit: Bad, name: str, values: Any) -> None:
        for position in unfit:
            value = values[position]
            shown = value.as_py() if isinstance(value, pa.Scalar) else value
            bad.setdefault(position, self.misfit(name, repr(shown)))

    def misfit(self, name: str, value: str) -> str:
        """What to tell about a value that does not fit its column."""
        kind, shown = self.types.get(name), shorten(value, 80)
        if name in self.demanded:
            return f"column {name!r}: {shown} is not {kind}, which the schema demands"
        return f"column {name!r}: {shown} is not {kind} like the values before it{_advice(name)}"

    def emit(
        self,
        arrays: Mapping[str, pa.Array],
        count: int,
        bad: Bad,
        locate: Locate,
        others: Sequence[MalformedRecord] = (),
    ) -> Iterator[Piece]:
        """Yield the good rows in batches of a bounded size, then what is malformed.

        Without a good row there is an empty batch, if it has columns that none had before: they are null in the others.
        """
        self.admit(arrays)
        self.rows += count
        for name in self.required:
            nulls = arrays[name].is_null() if name in arrays else pa.array([True] * count, pa.bool_())
            for position in np.flatnonzero(nulls.to_numpy(zero_copy_only=False)).tolist():
                bad.setdefault(position, f"column {name!r}: is null, the schema demands a value")
        batch = self._batch(arrays, count)
        if bad:
            batch = batch.take(pa.array([row for row in range(count) if row not in bad], pa.int64()))
        if batch.num_rows or not (bad or others) or not self._told.issuperset(batch.schema.names):
            self._told.update(batch.schema.names)
            yield from _slices(batch)
        found = [malformed(*locate(position), bad[position], UNFIT) for position in bad]
        if found or others:
            yield sorted([*found, *others], key=lambda record: record.line or 0)

    def _batch(self, arrays: Mapping[str, pa.Array], count: int) -> pa.RecordBatch:
        names = dict.fromkeys([*self.types, *arrays])
        kept = [name for name in names if self._is_kept(name)]
        if not kept:  # from_arrays would forget how many rows there are
            return pa.RecordBatch.from_struct_array(pa.array([{}] * count, pa.struct([])))
        columns = [arrays[name] if name in arrays else pa.nulls(count, self.types[name]) for name in kept]
        return pa.RecordBatch.from_arrays(columns, names=[self._rename.get(name, name) for name in kept])

    def _fail(self, reason: str) -> None:
        raise SourceError(self.source, reason + ".", retryable=False)


def _advice(name: str) -> str:
    return f"; schema={{{name!r}: 'string'}} reads the column as text"


def _slices(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    parts = max(-(-batch.num_rows // ROWS), -(-batch.nbytes // BYTES), 1)
    step = max(-(-batch.num_rows // parts), 1)
    for start in range(0, max(batch.num_rows, 1), step):
        yield batch.slice(start, step)
