"""Batches: what waits for one, what travels to the shards, and how their answers become one."""
