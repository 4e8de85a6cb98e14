"""The retrieval model: retrieval, ranking, re-ranking, and the scorers in them."""
