"""Reads the Markdown pages: their code blocks, checked tables, headings and links.

Conventions, each an HTML comment on the line before:
``<!-- runnable -->``: a Python block that the tests run; the blocks of a page share names and a scratch directory.
``<!-- prints -->``: exactly what the runnable block before it prints.
``<!-- ledger -->``: a SQL block that is run against the ledger of a small job.
``<!-- checked: name -->``: a table that the tests compare with the code.
A Python block with ``@dag`` is parsed by Airflow; every other Python block must compile.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *DOCS]
EVERYWHERE = sorted(
    path for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").glob("*.md")]
)

_FENCE = re.compile(r"^(`{3,})(\w*)\s*$")
_MARKER = re.compile(r"^<!-- ([a-z]+)(?:: ([\w-]+))? -->$")
_LINK = re.compile(r"!?\[[^\]\[]*(?:\[[^\]]*\][^\]\[]*)*\]\(([^()\s]*(?:\([^()]*\))?[^()\s]*)\)")
_HEADING = re.compile(r"^#{1,6} (.*?)\s*$")


@dataclass(frozen=True)
class CodeBlock:
    """A fenced block: where it stands, its language, the marker before it, its text."""

    page: Path
    line: int
    language: str
    marker: str
    text: str

    @property
    def where(self) -> str:
        """File and line, as an editor opens them."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_dag(self) -> bool:
        """Whether it defines a DAG."""
        return self.language == "python" and "@dag" in self.text


def code_blocks(page: Path) -> list[CodeBlock]:
    """Every fenced block of a page, in order."""
    found: list[CodeBlock] = []
    opened: tuple[str, str, int, str] | None = None
    body: list[str] = []
    marker = ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None and fence:
            opened, body = (fence[1], fence[2], number, marker), []
        elif opened is not None and line == opened[0]:
            found.append(CodeBlock(page, opened[2], opened[1], opened[3], "\n".join(body) + "\n"))
            opened = None
        elif opened is not None:
            body.append(line)
        match = _MARKER.match(line)
        marker = match[1] if match else ""
    assert opened is None, f"{page.name}: a code block is never closed"
    return found


def prose(page: Path) -> Iterator[str]:
    """The lines that are not code."""
    fence = ""
    for line in page.read_text(encoding="utf-8").splitlines():
        match = _FENCE.match(line)
        if match and not fence:
            fence = match[1]
        elif fence and line == fence:
            fence = ""
        elif not fence:
            yield line


def links(page: Path) -> list[str]:
    """The targets of all links of a page."""
    return [match[1] for line in prose(page) for match in _LINK.finditer(re.sub(r"`[^`]*`", "", line))]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for line in prose(page):
        if match := _HEADING.match(line):
            plain = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match[1]).lower())
            slug, times = plain.replace(" ", "-"), 0
            while (name := slug if not times else f"{slug}-{times}") in found:
                times += 1
            found.add(name)
    return found


def checked_tables() -> dict[str, list[list[str]]]:
    """Name → rows of cells of every table that is marked to be checked, without its header."""
    found: dict[str, list[list[str]]] = {}
    for page in DOCS:
        name = ""
        lines = 0
        for line in prose(page):
            match = _MARKER.match(line)
            if match and match[1] == "checked":
                name, lines = match[2], 0
                assert name not in found, f"two tables are marked {name!r}"
                found[name] = []
            elif name and line.startswith("|"):
                lines += 1
                if lines > 2:  # header and rule
                    found[name].append(_cells(line))
            elif name and lines:
                name = ""
    return found


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def code(cell: str) -> str:
    """The one piece of code that a cell is."""
    match = re.fullmatch(r"`([^`]+)`", cell)
    assert match, f"a name in backticks was expected, not {cell!r}"
    return match[1]
