"""Closed-form repairs after removal: one file each, found by its name. (None yet.)"""
