"""For programs that use what a domain serves: a key of their own, never the root key."""
