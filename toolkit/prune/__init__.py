"""Decide what to remove: a criterion scores units, an allocator spends a budget on them, a method wires the two."""
