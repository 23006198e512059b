"""Telling on-call: what happened, to the addresses that an Airflow connection names."""
