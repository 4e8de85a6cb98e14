"""The durable update log: its file, its single writer, and how replicas follow it."""
