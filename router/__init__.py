"""Fan-out of queries over shards: batching, deadlines, merging and HTTP. No Ray."""
