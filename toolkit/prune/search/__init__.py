"""Search for the best small model within a budget: numbers of tokens, and widths of every block.

Widths come from dynamic programming over ladders, for given weights of their errors; the numbers of tokens and the
weights from a seeded random search, which judges whole models by their divergence from the dense model.
"""
