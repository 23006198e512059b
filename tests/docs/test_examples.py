from __future__ import annotations

import contextlib
import io
import warnings
from itertools import pairwise
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, PAGES, CodeBlock, code_blocks

BLOCKS = [block for page in PAGES for block in code_blocks(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
DAGS = [block for block in PYTHON if block.is_dag]
RUNNABLE = {page: [b for b in code_blocks(page) if b.marker in {"runnable", "prints"}] for page in PAGES}
FEATURES = [page for page in DOCS if page.stem not in {"alerts", "benchmarks", "deployment", "layout", "performance"}]


def _run(block: CodeBlock, names: dict[str, object]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(block.text, block.where, "exec"), names)
    return out.getvalue()


@pytest.mark.parametrize("page", [p for p in PAGES if RUNNABLE[p]], ids=lambda p: p.stem)
def test_the_runnable_examples_run_and_print_what_the_page_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "example"}
    printed = ""
    for block in RUNNABLE[page]:
        if block.marker == "prints":
            assert printed == block.text, block.where
        else:
            printed = _run(block, names)


@pytest.mark.parametrize("block", PYTHON, ids=lambda b: b.where)
def test_every_python_example_compiles(block):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compile(block.text, block.where, "exec")


@pytest.mark.parametrize("page", FEATURES, ids=lambda p: p.stem)
def test_every_feature_page_has_an_example_that_is_tried(page):
    blocks = code_blocks(page)
    assert any(block.marker == "runnable" or block.is_dag for block in blocks)


def test_every_output_follows_an_example():
    for page, blocks in RUNNABLE.items():
        kinds = [block.marker for block in blocks]
        assert "prints" not in kinds[:1], page.name
        assert ("prints", "prints") not in pairwise(kinds), page.name


def test_the_dags_of_the_examples_are_parsed_by_airflow(tmp_path):
    from airflow.dag_processing.dagbag import DagBag

    files = {_write_dag(tmp_path, number, block): block.where for number, block in enumerate(DAGS)}
    bag = DagBag(tmp_path)
    assert {files[Path(path).name]: error for path, error in bag.import_errors.items()} == {}
    made = {Path(dag.fileloc).name for dag in bag.dags.values()}
    assert made == set(files), "an example defines no DAG, or two examples define DAGs of one name"


def _write_dag(folder: Path, number: int, block: CodeBlock) -> str:
    """Each example as a file of its own, under a DAG id of its own."""
    name = f"example_{number}.py"
    text = block.text
    if "from airflow.sdk import" not in text and "import dag" not in text:
        text = f"from airflow.sdk import dag\n{text}"
    (folder / name).write_text(text, encoding="utf-8")
    return name
