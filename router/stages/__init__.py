"""Stages of a request around the search of the shards."""
