from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import DOCS, EVERYWHERE, ROOT, anchors, links, prose


def _problem(page: Path, target: str) -> str | None:
    name, _, anchor = target.partition("#")
    path = (page.parent / name).resolve() if name else page
    if not path.exists():
        return "no such file"
    if not path.is_relative_to(ROOT):
        return "outside the project"
    if anchor and path.suffix == ".md" and anchor not in anchors(path):
        return "no such heading"
    return None


@pytest.mark.parametrize("page", EVERYWHERE, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page):
    relative = [target for target in links(page) if "://" not in target and not target.startswith("mailto:")]
    assert {target: why for target in relative if (why := _problem(page, target))} == {}


def test_every_page_can_be_reached_from_the_readme():
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or not page.exists() or page.suffix != ".md":
            continue
        seen.add(page)
        names = [target.partition("#")[0] for target in links(page) if "://" not in target]
        waiting += [(page.parent / name).resolve() for name in names if name]
    assert [page.name for page in DOCS if page not in seen] == []


def test_the_readme_lists_every_page():
    listed = {target.partition("#")[0] for target in links(ROOT / "README.md")}
    pages = {page.relative_to(ROOT).as_posix() for page in DOCS if page.parent == ROOT / "docs"}
    assert pages - listed == set()


@pytest.mark.parametrize("page", DOCS, ids=lambda p: p.stem)
def test_lines_fit_on_a_screen(page):
    assert [line for line in prose(page) if len(line) > 200 and not line.startswith("|")] == []
