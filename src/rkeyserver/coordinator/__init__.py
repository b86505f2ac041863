"""Who may change a domain's keyring, where an engine of others decides it. Service never depends on it."""
