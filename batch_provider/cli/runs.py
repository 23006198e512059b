"""What Airflow's database says of DAG runs: the command line has it, tasks and triggers do not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import islice

from batch_provider.domain.errors import BatchError
from batch_provider.domain.instance import JobInstance

ALIVE = frozenset({"queued", "running"})
_AT_A_TIME = 500


class NoDatabaseError(BatchError):
    """Airflow's database cannot be asked."""


def run_states(instances: Iterable[JobInstance]) -> Mapping[tuple[str, str], str]:
    """(DAG id, run id) → state of the DAG run; runs that were deleted are not in it.

    Raises:
        NoDatabaseError: the database cannot be reached from here.
    """
    from sqlalchemy import select
    from sqlalchemy.exc import SQLAlchemyError

    wanted: dict[str, set[str]] = defaultdict(set)
    for instance in instances:
        wanted[instance.dag_id].add(instance.run_id)
    found: dict[tuple[str, str], str] = {}
    try:
        from batch_provider.airflow_compat import DagRun, create_session

        with create_session() as session:
            for dag_id, run_ids in wanted.items():
                rest = iter(sorted(run_ids))
                while part := list(islice(rest, _AT_A_TIME)):
                    query = select(DagRun.run_id, DagRun.state).where(DagRun.dag_id == dag_id, DagRun.run_id.in_(part))
                    found |= {(dag_id, run_id): str(state) for run_id, state in session.execute(query)}
    except SQLAlchemyError as error:
        raise NoDatabaseError(
            f"Airflow's database cannot be asked ({type(error).__name__}). Run this where the scheduler or the API "
            "server runs: it has to know which DAG runs are still running."
        ) from error
    return found


def is_alive(instance: JobInstance) -> bool:
    """Whether its DAG run is queued or running."""
    return run_states([instance]).get((instance.dag_id, instance.run_id)) in ALIVE
