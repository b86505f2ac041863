"""A software processor. It protects nothing: its fuses are a file and its root key is public."""
