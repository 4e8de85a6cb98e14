"""Training: configuration, a run in one process, and on several through Ray Train."""
