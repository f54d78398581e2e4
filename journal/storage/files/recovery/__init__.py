"""Crash recovery of journal and head files: what is there, and what it proves."""
