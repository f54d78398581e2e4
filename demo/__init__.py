"""A self-checking demonstration: `make demo`.  The package is not installed."""
