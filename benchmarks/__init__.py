"""Milepost measured side by side with its peers; run as `python -m benchmarks`."""
