"""SGX, inside a Gramine enclave: quotes, reports and sealing keys from /dev/attestation."""
