"""The process: forks, threads, garbage collection, random bytes."""
