"""States: JSON, compression, deltas, digests, migrations, differences."""
