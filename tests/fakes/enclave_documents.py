"""Documents that a hostile host may write for an enclave, each with what the error says."""

from __future__ import annotations

import json

from rkeyserver.enclave_options import COMMANDS, MAX_OPTIONS, REFUSED

DOMAIN = "0123456789abcdef" * 2
USUAL: dict[str, object] = {"keystore": "rkey.bin"}


def document(command: str = "serve", **options: object) -> bytes:
    """As a hostile host may write it: anything at all."""
    said = USUAL | {name.replace("_", "-"): value for name, value in options.items()}
    order = COMMANDS.get(command, COMMANDS["serve"]).__struct_encode_fields__
    ordered = sorted(said, key=lambda name: order.index(name) if name in order else len(order))
    told = {"command": command, "options": {name: said[name] for name in ordered}}
    return json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def deep(before: str, most: int = 30_000) -> bytes:
    return before.encode() + b"[" * most


PLAIN = document()
HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "no JSON"),
    "white space": (b" \n", "no JSON"),
    "a NUL": (b"\0", "no JSON"),
    "a NUL behind": (PLAIN + b"\0", "no JSON"),
    "a byte order mark": (b"\xef\xbb\xbf" + PLAIN, "no JSON"),
    "UTF-16": (PLAIN.decode().encode("utf-16"), "no JSON"),
    "no UTF-8": (PLAIN.replace(b"rkey", b"rk\xffy"), "no JSON"),
    "cut": (PLAIN[:-1], "no JSON"),
    "two documents": (PLAIN * 2, "no JSON"),
    "a comment": (PLAIN + b" // all is well", "no JSON"),
    "TOML": (b'command = "serve"', "no JSON"),
    "single quotes": (PLAIN.replace(b'"', b"'"), "no JSON"),
    "NaN": (document(wait_ms=float("nan")), "no JSON"),
    "Infinity": (document(wait_ms=float("inf")), "no JSON"),
    "a number without end": (document(wait_ms=0).replace(b"0}", b"9" * 60_000 + b"}"), "wait-ms is wrong"),
    "an exponent": (document(wait_ms=0).replace(b"0}", b"1e999999}"), "wait-ms is wrong"),
    "lists without end": (deep('{"command":"serve","options":'), "no JSON"),
    "lists without end in an option": (deep('{"command":"serve","options":{"keystore":"k","host":'), "no JSON"),
    "objects without end": (b'{"command":"serve","options":' + b'{"a":' * 10_000, "no JSON"),
    "a list": (b"[]", "Expected `object`"),
    "null": (b"null", "Expected `object`"),
    "a text": (b'"serve"', "Expected `object`"),
    "no command": (b'{"options":{"keystore":"k"}}', "command is missing"),
    "no options": (b'{"command":"serve"}', "options is missing"),
    "a command of another kind": (b'{"command":["serve"],"options":{}}', "command is wrong"),
    "an unknown command": (document("policy"), "command is wrong"),
    "a command of the host's": (document("recovery"), "command is wrong"),
    "a command in capitals": (document("SERVE"), "command is wrong"),
    "the module of a command": (document("enclave"), "command is wrong"),
    "a field more": (PLAIN[:-1] + b',"argv":["-c","import os"]}', "argv is unknown"),
    "options that are a list": (b'{"command":"serve","options":[]}', "Expected `object`"),
    "options that are null": (b'{"command":"serve","options":null}', "Expected `object`"),
    "no keystore": (b'{"command":"serve","options":{}}', "keystore is missing"),
    "no keystore for the doctor": (b'{"command":"doctor","options":{}}', "keystore is missing"),
    "options for identity": (document("identity"), "keystore is unknown"),
    "serve's option for the doctor": (document("doctor", listen=[":1"]), "listen is unknown"),
    "the doctor's option for serve": (document(json=True), "json is unknown"),
    "a command twice": (PLAIN.replace(b'{"command"', b'{"command":"identity","command"'), "one form"),
    "options twice": (PLAIN[:-1] + b',"options":{"keystore":"k"}}', "one form"),
    "an option twice": (PLAIN.replace(b'{"keystore"', b'{"keystore":"other","keystore"'), "one form"),
    "space": (PLAIN.replace(b":", b": "), "one form"),
    "a line's end": (PLAIN + b"\n", "one form"),
    "another order": (b'{"options":{"keystore":"rkey.bin"},"command":"serve"}', "one form"),
    "another order of options": (b'{"command":"serve","options":{"once":true,"keystore":"k"}}', "one form"),
    "an escape that says the same": (PLAIN.replace(b"rkey", b"\\u0072key"), "one form"),
    "null for what is not said": (document(domain=None), "one form"),
    "too large": (document(ops="x" * MAX_OPTIONS), "more than 65536 bytes"),
    "no domain": (document(domain="any"), "domain is wrong"),
    "a domain in capitals": (document(domain=DOMAIN.upper()), "domain is wrong"),
    "a domain and a line": (document(domain=DOMAIN + "\n"), "domain is wrong"),
    "no hosts": (document(host=[]), "host is wrong"),
    "too many hosts": (document(host=["a:1"] * 65), "host is wrong"),
    "a host that is no text": (document(host=[1]), "host is wrong"),
    "a host that is none": (document(host=["a b:1"]), "no address"),
    "a host with a user": (document(host=["u@a:1"]), "no address"),
    "a host with a path": (document(host=["a:1/x"]), "no address"),
    "a host that is a socket": (document(host=["unix:/run/x"]), "no address"),
    "a host on port 0": (document(host=["a:0"]), "its port is 0"),
    "no other instances": (document(peer=[]), "peer is wrong"),
    "too many other instances": (document(peer=["a:1"] * 65), "peer is wrong"),
    "another instance on port 0": (document(peer=["a:0"]), "its port is 0"),
    "another instance that is a socket": (document(peer=["unix:/run/x"]), "no address"),
    "too many listeners": (document(listen=[":1"] * 17), "listen is wrong"),
    "listening on a port that is none": (document(listen=[":70000"]), "no address"),
    "operations everywhere": (document(ops=":1"), "no address"),
    "a wait that is true": (document(wait_ms=True), "wait-ms is wrong"),
    "a wait that is a fraction": (document(wait_ms=0.5), "wait-ms is wrong"),
    "a wait before now": (document(wait_ms=-1), "wait-ms is wrong"),
    "a wait for ever": (document(wait_ms=86_400_001), "wait-ms is wrong"),
    "the command line's name of it": (document(wait=1), "wait is unknown"),
    "once is 1": (document(once=1), "once is wrong"),
    "once, of nobody": (document(once=True), "none is given"),
    "recovery of anything": (document(recover=True), "--domain names"),
    "recovery from a host": (document(recover=True, domain=DOMAIN, host=["a:1"]), "no host is left"),
    "a change of nothing": (document(change="c"), "goes with --recover"),
    "a PCCS without TLS": (document(pccs="http://pccs"), "https only"),
    "a PCCS that is a file": (document(pccs="file:///etc/passwd"), "https only"),
    "a PCCS with a password": (document(pccs="https://u:p@pccs"), "with a user or password"),
    "a PCCS of two lines": (document(pccs="https://pccs/\r\nHost: x"), "https only"),
    "a CA of nothing": (document(pccs_ca="ca.pem"), "no PCCS is given"),
    "keys for applications on a port that is none": (document(provision=":70000"), "no address"),
    "callers on a port that is none": (document(callers=":70000"), "no address"),
    "callers that are a socket": (document(callers="/run/x"), "no address"),
    "a database for a keystore": (document(keystore="postgresql://a/b"), "keystore is wrong"),
    "a database in a file for a keystore": (document(keystore="sqlite:rkey.db"), "keystore is wrong"),
    "a coordinator of another kind": (document(coordinator="http://a:1"), "wanted is etcd://"),
    "a coordinator with a user": (document(coordinator="etcd://u@a:1"), "with a user or password"),
    "a coordinator's CA of nothing": (document(coordinator_ca="ca.pem"), "asked over TLS"),
    "a coordinator's certificate elsewhere": (document(coordinator_cert="../c"), "coordinator-cert is wrong"),
    "no lease": (document(lease=0), "lease is wrong"),
    "a lease for ever": (document(lease=601), "lease is wrong"),
    "a log level that says more": (document(log_level="trace"), "log-level is wrong"),
    **{
        f"--{name}, which is not the host's to say": (document(**{name: "x"}), f"{name} is unknown")
        for name in (*REFUSED, "platform", "config", "port", "insecure", "accept-any", "measured", "mrsigner")
    },
}  # fmt: skip
