"""Configuration files that a user copies."""
