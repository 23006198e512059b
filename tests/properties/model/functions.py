"""What the author's functions do: the product and the model call the same ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.properties.model.plan import PAYLOAD, RAISES, Step, World


def plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """A payload without nulls: of a column that others have, and of one that nobody has, the same is seen."""
    return {key: value for key, value in sorted(record.items()) if value is not None}


def given(record: Mapping[str, Any], keywords: Mapping[str, Any]) -> str:
    """What a call was given, to be compared."""
    shown = dict(keywords)
    if "failures" in shown:
        shown["failures"] = [(f["step"], f["type"]) for f in shown["failures"]]
    shown.pop("instance", None)
    return f"{plain(record)} {dict(sorted(shown.items()))}"


def who(record: Mapping[str, Any], keywords: Mapping[str, Any]) -> int | None:
    """Which record it is, as far as the function knows."""
    return keywords.get("record_id", record.get("id"))


def trouble_of(step: Step, world: World, number: int | None) -> str | None:
    """What goes wrong with a record in this try, if anything."""
    trouble = step.trouble.get(number)
    if trouble is None or world.round >= trouble.until:
        return None
    if world.tries[step.name, number] < trouble.tries:
        world.tries[step.name, number] += 1
        return trouble.kind
    world.tries[step.name, number] = 0
    return None


def act(step: Step, world: World, version: int, record: dict[str, Any], keywords: Mapping[str, Any]) -> Any:
    """The function of a record step."""
    world.enter(step.name, given(record, keywords))
    number = who(record, keywords)
    kind = trouble_of(step, world, number)
    if "variables" in keywords and step.sets is not None and (number or 0) % step.sets == 0:
        keywords["variables"]["lim"] = 1 + (number or 0) % 4
    if kind in RAISES:
        raise RAISES[kind](f"{step.name}: {number}")
    if kind == "variable" and "variables" in keywords:
        keywords["variables"]["bad"] = object()
    made = patch_of(step, world, version, record, keywords)
    record["id"] = "a change of what was passed in changes nothing"
    if kind in ("number", "reserved", "object"):
        return {"number": 5, "reserved": {"_id": 5}, "object": {**(made or {}), "a": object()}}[kind]
    return made


def patch_of(
    step: Step, world: World, version: int, record: Mapping[str, Any], keywords: Mapping[str, Any]
) -> dict[str, Any] | None:
    """What a function returns if all is well."""
    number = who(record, keywords)
    values: dict[str, Callable[[], Any]] = {
        "twice": lambda: (record.get("n") or 0) * 2 + 1,
        "life": lambda: world.life * 1000 + world.round * 100 + (number or 0),
        "version": lambda: version * 1000 + (number or 0),
        "text": lambda: f"{step.name}-{number}",
        "list": lambda: [number or 0, step.size],
        "variable": lambda: keywords["variables"]["lim"] if "variables" in keywords else 7,
        "failures": lambda: len(keywords["failures"]) if isinstance(keywords.get("failures"), list) else 0,
        "null": lambda: None,
        "retype": lambda: int(record.get("t") or "nothing"),
        "retype or null": lambda: int(record["t"]) if record.get("t") is not None else None,
        "more": lambda: (record.get("a") or 0) + 1,
    }
    made = {p.key: values[p.formula]() for p in step.patches if (number or 0) % p.every == 0}
    if step.output == "replace":
        return {name: record.get(name) for name in PAYLOAD} | made if (number or 0) % 3 else None
    return made if step.patches else None


def act_on_group(
    step: Step, world: World, version: int, records: Sequence[dict[str, Any]], keywords: Mapping[str, Any]
) -> Any:
    """The function of a sized aggregator."""
    ids = keywords.get("record_ids") or [record.get("id") for record in records]
    failures = keywords.get("failures") or [[] for _ in records]
    known = {"key": keywords["idempotency_key"]} if "idempotency_key" in keywords else {}
    entries = [given(r, {**known, "failures": f}) for r, f in zip(records, failures, strict=True)]
    world.enter(step.name, tuple(entries))
    kinds = [trouble_of(step, world, number) for number in ids]
    if bad := [number for number, kind in zip(ids, kinds, strict=True) if kind in RAISES]:
        raise ValueError(f"{step.name}: {bad}")
    if "length" in kinds:
        return [None] * (len(ids) + 1)
    made: list[Any] = []
    for number, kind, record, failed in zip(ids, kinds, records, failures, strict=True):
        patch = patch_of(step, world, version, record, {"record_id": number, "failures": failed})
        made.append({"number": 5, "reserved": {"_id": 5}, "object": {"a": object()}}.get(kind or "", patch))
    return made if step.patches or any(kinds) else None


def act_on_stream(step: Step, world: World, records: Any) -> None:
    """The function of a streaming aggregator."""
    seen: list[str] = []
    bad: list[int | None] = []
    try:
        for record in records:
            if len(seen) == step.looks_at:
                break
            seen.append(given(record, {}))
            trouble = step.trouble.get(record.get("id"))
            if trouble is not None and world.round < trouble.until:
                bad.append(record.get("id"))
    finally:
        world.enter(step.name, tuple(seen))
    if bad:
        raise ValueError(f"{step.name}: {bad}")


def accepts(name: str, record: Mapping[str, Any], keywords: Mapping[str, Any]) -> bool:
    """A callable that says which records a step takes."""
    if name == "even":
        return record.get("id") % 2 == 0  # a malformed record has none: it fails in being asked
    if name == "record_id":
        return keywords["record_id"] % 3 != 0
    if name == "raises":
        if (record.get("n") or 0) > 6:
            raise LookupError("above 6")
        return 1  # type: ignore[return-value]  # a true value accepts
    if name == "variables":
        return keywords["variables"]["lim"] > 2
    return not keywords["failures"] or keywords["failures"][-1]["type"] != "LookupError"


ACCEPTS: Mapping[str, tuple[str, ...]] = {
    "even": (),
    "record_id": ("record_id",),
    "raises": (),
    "variables": ("variables",),
    "failures": ("failures",),
}
