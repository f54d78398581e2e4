"""Crash recovery: what a job's files say, and which recovery action follows."""
