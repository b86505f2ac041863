"""Keystores: where the sealed record lies. Untrusted, and told nothing but opaque bytes."""
