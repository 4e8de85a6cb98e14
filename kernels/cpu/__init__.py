"""Kernels for CPUs, named as their ops, and what only they need: Numba, vector instructions, scratch."""
