"""The demo on MovieLens."""
