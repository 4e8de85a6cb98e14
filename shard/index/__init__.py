"""The index: clusters, codes, snapshots and the lists a shard searches."""
