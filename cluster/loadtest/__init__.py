"""The load test and its report."""
