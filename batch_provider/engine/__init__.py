"""What happens to a job: load, process, aggregate, complete. Over ports; Arrow and DuckDB compute; no Airflow."""
