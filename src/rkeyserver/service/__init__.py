"""The server: HTTP, limits, life cycle. compose.py alone names concrete back ends."""
