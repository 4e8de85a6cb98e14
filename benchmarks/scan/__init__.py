"""The benchmark of search on a CPU."""
