"""The retrieval model and its towers."""
