"""Jobs of an open store: replicas, group commit, compaction, clocks."""
