"""Asking an instance: one view a step, the ledger, the survey of its steps."""
