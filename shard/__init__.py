"""One shard: everything between a query vector and scored items. No Ray, no network."""
