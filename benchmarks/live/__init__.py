"""The benchmark of live updates."""
