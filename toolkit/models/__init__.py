"""Prunable models: build, load, save, canonicalise attention, group, prune and profile."""
