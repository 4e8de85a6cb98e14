"""Serving with Ray Serve: deployments, their start, change and end."""
