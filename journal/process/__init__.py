"""The process: forks, threads, garbage collection."""
