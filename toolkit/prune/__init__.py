"""Pruning plans: a criterion scores units, a scope ranks them, the budget is filled; a method combines these."""
