"""Platforms: what gives a machine evidence and a sealing key. A closed list, imported late."""
