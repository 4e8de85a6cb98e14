"""The Ray layer: configuration, deployments, load test and command line."""
