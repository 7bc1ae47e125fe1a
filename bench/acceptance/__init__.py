"""Acceptance of the kernels and of pruned models on a GPU: measurements, and the claims that they must meet.

    python -m toolkit.bench.acceptance kernels

Importing this package has no side effects.
"""
