"""Thin Airflow: template fields, context and error mapping around the engine."""
