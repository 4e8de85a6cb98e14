"""The schema of a catalog, its typed values, keys, vectors and user features: what a value may be."""
