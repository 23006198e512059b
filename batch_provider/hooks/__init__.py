"""Access to batch instances from other tasks."""
