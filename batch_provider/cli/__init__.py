"""``airflow batch …``: what an operator does at a terminal."""
