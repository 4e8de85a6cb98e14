"""Kernels for NVIDIA GPUs, named as their ops, and what only they need; written in Triton."""
