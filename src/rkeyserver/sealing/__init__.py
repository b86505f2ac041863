"""Sealing: a record key wrapped in slots, and a record under it."""
