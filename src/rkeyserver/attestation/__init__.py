"""Attestation: is this evidence genuine? Bytes, a time and a trust anchor in; claims out. No I/O."""
