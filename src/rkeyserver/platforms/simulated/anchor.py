"""The trust anchor of simulated evidence. Its private key is public; only this platform's verifier has it."""

from __future__ import annotations

import base64
from typing import Final

from rkeyserver.attestation.sgx.anchors import TrustAnchor
from rkeyserver.attestation.sgx.verify import SgxVerifier

SIMULATED_ROOT: Final = TrustAnchor(
    name="rkeyserver PUBLIC DEVELOPMENT ROOT - protects nothing",
    der=base64.b64decode(
        """
        MIIB4zCCAYmgAwIBAgIPXzxxKFux/WM93ZkcRMylMAoGCCqGSM49BAMCMEAxPjA8BgNVBAMMNXJrZXlzZXJ2ZXIgUFVCTElDIERF
        VkVMT1BNRU5UIFJPT1QgLSBwcm90ZWN0cyBub3RoaW5nMB4XDTIwMDEwMTAwMDAwMFoXDTQ5MTIzMTIzNTk1OVowQDE+MDwGA1UE
        Aww1cmtleXNlcnZlciBQVUJMSUMgREVWRUxPUE1FTlQgUk9PVCAtIHByb3RlY3RzIG5vdGhpbmcwWTATBgcqhkjOPQIBBggqhkjO
        PQMBBwNCAAQdJKM8pktdM4+VgDQgEK0QZ7fU4/f7b4gRB3sZbB0U6uPjy+K+bI1vqd4mwsxUVmqA1n5J6tLMBXYUQj4A5cwwo2Yw
        ZDAfBgNVHSMEGDAWgBRmEZuHKWbjVh2Fdixao4umXhLEHjAdBgNVHQ4EFgQUZhGbhylm41YdhXYsWqOLpl4SxB4wDgYDVR0PAQH/
        BAQDAgEGMBIGA1UdEwEB/wQIMAYBAf8CAQEwCgYIKoZIzj0EAwIDSAAwRQIgWGjnG/deUJWjhqiw7iQR00zjqdBvhKs9NpT7ERGM
        UToCIQDCPu5LwzMYrxdLe69wrZ369HpZdYsAIpFzBk8+Kiz2hQ==
        """
    ),
    sha256="0f07c332ab53bdc5ad4d83a3ddab952c7cedc222a43d9cd416e3041162aab2ca",
)

verify: Final = SgxVerifier(platform="simulated", anchor=SIMULATED_ROOT)
