"""Tables of several blocks as one: columns by name, types widened, no value lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import pyarrow as pa

from batch_provider.engine.columns.kept import Kept, kept_column, kept_values
from batch_provider.engine.columns.rows import build_column, to_python, unify


def concat_by_name(tables: Sequence[pa.Table]) -> pa.Table:
    """One table of several: columns by name, types widened, absent columns null.

    Where two types have nothing in common the one of more rows wins; the other values move to ``_kept``.
    """
    if len(tables) == 1:
        return tables[0]
    kinds: dict[str, pa.DataType] = {}
    losing: list[Kept] = [{} for _ in tables]
    plain = list(tables)
    for name in dict.fromkeys(name for table in tables for name in table.column_names):
        kinds[name], losers = _joint_type(name, tables)
        for number in losers:
            table = plain[number]
            for row, value in enumerate(to_python(table[name])):
                if value is not None:
                    losing[number].setdefault(row, {})[name] = value
            empty = pa.nulls(table.num_rows, kinds[name])
            plain[number] = table.set_column(table.column_names.index(name), name, empty)
    return concat_as([_with_kept(table, kept) for table, kept in zip(plain, losing, strict=True)], kinds)


def _joint_type(name: str, tables: Sequence[pa.Table]) -> tuple[pa.DataType, list[int]]:
    """The type for a column of several tables, and the tables whose own has nothing in common with it."""
    have = [number for number, table in enumerate(tables) if name in table.column_names]
    kinds = {number: tables[number].schema.field(name).type for number in have}
    rows: Counter[pa.DataType] = Counter()
    for number, kind in kinds.items():
        rows[kind] += tables[number].num_rows
    joint = joint_type(rows)
    return joint, [number for number, kind in kinds.items() if unify(joint, kind) != joint]


def joint_type(rows: Counter[pa.DataType]) -> pa.DataType:
    """The type for a column that has these types in so many rows; values of a type it does not hold are kept aside."""
    joint, members = pa.null(), [pa.null()]
    for kind, _ in rows.most_common():
        wider = unify(joint, kind)
        if wider is not None and all(unify(wider, member) == wider for member in [*members, kind]):
            joint, members = wider, [*members, kind]
    return joint


def concat_as(tables: Sequence[pa.Table], kinds: Mapping[str, pa.DataType]) -> pa.Table:
    """One table with columns of these types; a value that would lose by it (a large integer) moves to ``_kept``."""
    fitted = [_fit(table, kinds) for table in tables]
    names = dict.fromkeys([*kinds, *("_kept" for table in fitted if "_kept" in table.column_names)])
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in names])
    return pa.concat_tables([conform(table, schema) for table in fitted])


def _fit(table: pa.Table, kinds: Mapping[str, pa.DataType]) -> pa.Table:
    kept: Kept = {}
    for position, name in enumerate(table.column_names):
        kind = kinds.get(name)
        if kind is None or table.schema.field(name).type == kind:
            continue
        try:
            array = table[name].cast(kind)
        except pa.ArrowInvalid:
            values = to_python(table[name])
            array, bad = build_column(values, kind)
            for row in bad:
                kept.setdefault(row, {})[name] = values[row]
        table = table.set_column(position, name, array)
    return _with_kept(table, kept)


def _with_kept(table: pa.Table, kept: Kept) -> pa.Table:
    """``table`` with these values beside those it keeps already."""
    if not kept:
        return table
    if "_kept" not in table.column_names:
        return table.append_column("_kept", kept_column(kept, table.num_rows))
    present = kept_values(table["_kept"])
    joint = {row: {**kept.get(row, {}), **present.get(row, {})} for row in present.keys() | kept.keys()}
    return table.set_column(table.column_names.index("_kept"), "_kept", kept_column(joint, table.num_rows))


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """``table`` with exactly the columns of ``schema``."""
    return pa.table([_conformed(table, field) for field in schema], schema=schema)


def _conformed(table: pa.Table, field: pa.Field) -> pa.Array | pa.ChunkedArray:
    if field.name not in table.column_names:
        return pa.nulls(table.num_rows, field.type)
    column = table[field.name]
    return column if column.type == field.type else column.cast(field.type, safe=False)
