"""The benchmark of embedding tables."""
