"""Commands: decisions under the lock of a job, and the events that they add."""
