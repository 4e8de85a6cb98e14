"""The index in memory: inverted lists, payload and keys of the partitions that a shard has loaded."""
