"""The keyring: what is sealed and handed over."""
