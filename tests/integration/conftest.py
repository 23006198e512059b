from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session")
def bundle(airflow_db):
    """The folder tests/dags as Airflow sees it; its DAGs are known to the metadata database."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import sync_bag_to_db
    from airflow.utils.session import create_session

    manager = DagBundlesManager()
    with create_session() as session:
        manager.sync_bundles_to_db(session=session)
    (bundle,) = manager.get_all_dag_bundles()
    bundle.initialize()
    sync_bag_to_db(_parsed(bundle), bundle.name, bundle.version)
    return bundle


@pytest.fixture
def dags(bundle):
    """The DAGs of tests/dags, parsed for this test: `dag.test()` leaves the params of its run in the DAG."""
    return _parsed(bundle).dags


def _parsed(bundle):
    from airflow.dag_processing.dagbag import BundleDagBag

    bag = BundleDagBag(dag_folder=bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)
    assert bag.import_errors == {}
    return bag


@pytest.fixture
def storage(tmp_path, monkeypatch):
    """Where this test's job instances lie."""
    path = tmp_path / "batch"
    monkeypatch.setenv("AIRFLOW__BATCH_PROVIDER__STORAGE_PATH", os.fspath(path))
    return path


@pytest.fixture
def run(dags, storage, tmp_path, capfd):
    """Runs a DAG of tests/dags to its end."""
    from tests.integration.runs import Runner

    return Runner(dags, storage, tmp_path / "out", capfd)


@pytest.fixture
def orders(tmp_path):
    """Writes a CSV file of orders with the given amounts."""

    def write(*amounts, name="orders.csv"):
        path = tmp_path / name
        lines = [f"{number},{amount}" for number, amount in enumerate(amounts)]
        path.write_text("\n".join(["id,amount", *lines, ""]))
        return path

    return write
