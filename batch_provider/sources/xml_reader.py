"""XML files: every element at a path is a record, read as it streams by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any

from lxml import etree

from batch_provider.domain.errors import SourceError
from batch_provider.sources.intake import Intake, Piece, place_rows
from batch_provider.sources.locate import FoundFile
from batch_provider.sources.read_options import ReadOptions

_BLOCK = 10_000
_SHOWN_NAMES = 5
_NIL = "{http://www.w3.org/2001/XMLSchema-instance}nil"


def read_xml(found: FoundFile, options: ReadOptions, intake: Intake) -> Iterator[Piece]:
    """Stream a file. Names are local ones: prefixes of namespaces do not matter.

    A record has its children by name, its attributes as ``@name`` and, beside those, its own text as ``#text``.
    A child that is there several times is a list, one with children or attributes a dict.
    """
    path = tuple(part for part in (options.record_path or "").split("/") if part)
    if not path:
        raise SourceError(
            found.name, "an XML file needs record_path='root/element', the path to its records.", retryable=False
        )
    shape = _Shape(is_record=True)
    count = 0
    elements = _elements(found, path)
    while block := list(islice(elements, _BLOCK)):
        for row in block:
            shape.learn(row)
        rows = [shape.fit(row) for row in block]
        yield from intake.from_rows(rows, place_rows(range(count + 1, count + 1 + len(rows)), rows))
        count += len(block)
    if count:
        intake.check_demands()


def _elements(found: FoundFile, path: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    with found.open() as stream:
        events = etree.iterparse(
            stream,
            events=("end",),
            tag=f"{{*}}{path[-1]}",
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            huge_tree=False,
            remove_comments=True,
            remove_pis=True,
        )
        count = 0
        try:
            for _, element in events:
                if not count:
                    _refuse_doctype(found, element)
                if _path(element) == path:
                    count += 1
                    yield _record(element)
                    _forget(element)
        except etree.XMLSyntaxError as error:
            raise SourceError(
                found.name, f"the XML is wrong after record {count:,}: {error}. Correct the file.", retryable=False
            ) from error
        _check_root(found, events.root, path, count)


def _refuse_doctype(found: FoundFile, element: Any) -> None:
    if element.getroottree().docinfo.doctype:
        raise SourceError(found.name, "it has a DOCTYPE, which is refused. Remove it.", retryable=False)


def _check_root(found: FoundFile, root: Any, path: tuple[str, ...], count: int) -> None:
    """No record at all is fine only where records could have been: in an element that has no others either."""
    _refuse_doctype(found, root)
    if not count and (problem := _why_nothing(root, path)) is not None:
        raise SourceError(
            found.name,
            f"there is nothing at record_path={'/'.join(path)!r}: {problem}. Correct the path.",
            retryable=False,
        )


def _why_nothing(root: Any, path: tuple[str, ...]) -> str | None:
    """Why there is no element at ``path``; None: what it would stand in is there, and empty."""
    if _name(root) != path[0]:
        return f"the root is <{_name(root)}>"
    parents = [root]
    for depth, name in enumerate(path[1:-1], 2):
        parents = [child for parent in parents for child in parent if _name(child) == name]
        if not parents:
            return f"there is no {'/'.join(path[:depth])}"
    names = sorted({_name(child) for parent in parents for child in parent})
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    shown = ", ".join(f"<{name}>" for name in names[:_SHOWN_NAMES])
    return f"<{path[-2]}> has only {shown}{more}" if names else None


def _path(element: Any) -> tuple[str, ...]:
    return (*(_name(parent) for parent in reversed(list(element.iterancestors()))), _name(element))


def _name(element: Any) -> str:
    return _local(element.tag)


@lru_cache(maxsize=4096)
def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _forget(element: Any) -> None:
    """Free the record and everything before it."""
    element.clear(keep_tail=True)
    while element.getprevious() is not None:
        del element.getparent()[0]


def _record(element: Any) -> dict[str, Any]:
    value = _value(element)
    if isinstance(value, dict):
        return value
    return {} if value is None else {"#text": value}


def _value(element: Any) -> Any:
    """Text, or a dict where there is more than text; None where there is nothing."""
    children = list(element)
    if not children and not element.attrib:
        return element.text
    found: dict[str, Any] = {f"@{_local(name)}": value for name, value in element.attrib.items() if name != _NIL}
    texts = [element.text]
    for child in children:
        name, value = _name(child), _value(child)
        texts.append(child.tail)
        if name not in found:
            found[name] = value
        elif isinstance(found[name], _Several):
            found[name].append(value)
        else:
            found[name] = _Several([found[name], value])
    if text := "".join(text for text in texts if text and text.strip()):
        found["#text"] = text
    return found or None


class _Several(list[Any]):
    """What stands more than once under one name."""

    __slots__ = ()


@dataclass
class _Shape:
    """What the records seen so far look like, so that one child is a list where others have two."""

    is_record: bool = False
    is_list: bool = False
    children: dict[str, _Shape] = field(default_factory=dict)

    def learn(self, value: Any) -> None:
        """Take in one more; text has no shape."""
        if isinstance(value, _Several):
            self.is_list = True
            for item in value:
                self.learn(item)
        elif isinstance(value, dict):
            self.is_record = True
            for name, item in value.items():
                if isinstance(item, (dict, _Several)):
                    self.children.setdefault(name, _Shape()).learn(item)

    def fit(self, value: Any) -> Any:
        """Give a value the shape of all."""
        if self.is_list:
            several = value if isinstance(value, _Several) else [] if value is None else [value]
            return [self._fit_one(item) for item in several]
        return self._fit_one(value)

    def _fit_one(self, value: Any) -> Any:
        if not self.is_record or value is None:
            return value
        items = value if isinstance(value, dict) else {"#text": value}
        for name in self.children.keys() & items.keys():
            items[name] = self.children[name].fit(items[name])
        return items
