"""Rows in a database table, each exactly once."""
