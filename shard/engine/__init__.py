"""The engine: what a shard does with a request, from its validation to its reply."""
