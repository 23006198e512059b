"""A real Airflow on this machine, from this checkout: for the demo, the end-to-end tests and `make up`.

Not part of the provider. SQLite, LocalExecutor, the simple auth manager: for one person, not for production.
"""

from scripts.local_airflow.client import AirflowApiError, AirflowClient, RunProgress
from scripts.local_airflow.server import LocalAirflow, LocalAirflowError

__all__ = ["AirflowApiError", "AirflowClient", "LocalAirflow", "LocalAirflowError", "RunProgress"]
