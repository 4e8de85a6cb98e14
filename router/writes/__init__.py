"""Writes on their way to the update log."""
