"""SGX DCAP evidence."""
