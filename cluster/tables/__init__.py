"""Embedding tables larger than one device: a group of processes that hold a part each."""
