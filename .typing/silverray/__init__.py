"""A sharded retrieval cluster for recommendation on Ray: index, filter and scoring as one PyTorch model."""

__version__ = "0.1.0"
