"""States: JSON, compression, deltas, digests, migrations, diffs."""
