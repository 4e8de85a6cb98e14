"""The benchmark of training by request."""
