"""Live updates of a shard: writes, their checks and their application."""
