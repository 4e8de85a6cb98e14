"""The benchmark of value models."""
