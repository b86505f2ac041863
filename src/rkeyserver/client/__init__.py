"""For programs that use what a domain serves: keys derived, secrets wrapped, never the root key.

    from rkeyserver.client import Client

    with Client(["unix:/run/rkeyserver/rkeyserver.socket"]) as domain, domain.derive("db/orders") as key:
        key.view                    # 32 bytes of key memory, erased when the context ends

Client and AsyncClient ask a server of the domain over its local socket, or over TLS with a token, and another one where
that gives no answer (docs/integrations/python.md). rkeyserver.client.release is for enclaves, which ask with evidence.
"""

from __future__ import annotations

from rkeyserver.client.asynchronous import AsyncClient
from rkeyserver.client.calls import Secret, Wrapped
from rkeyserver.client.synchronous import Client

__all__ = ["AsyncClient", "Client", "Secret", "Wrapped"]
