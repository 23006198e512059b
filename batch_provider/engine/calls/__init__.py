"""Calling the author's functions: what they are given, retries, time limits, side by side or in turn."""
