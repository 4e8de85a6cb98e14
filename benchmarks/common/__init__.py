"""What benchmarks share: data, contenders, measuring, reports."""
