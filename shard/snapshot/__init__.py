"""A published snapshot: its files, what they may say, and the store that holds versions."""
