"""What an operator could get wrong in the chart's values, and the words that tell him. Each starts from an example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Values = dict[str, Any]


def _no_domain(values: Values) -> None:
    del values["domain"]


def _another_domain(values: Values) -> None:
    values["domain"] = "00112233-4455-6677-8899-aabbccddeeff"


def _first_with_domain(values: Values) -> None:
    values["firstStart"] = True


def _first_of_two(values: Values) -> None:
    values["machines"].append({"name": "two", "node": "worker-2", "folder": "/var/lib/rkeyserver"})


def _first_that_asks(values: Values) -> None:
    values["hosts"] = ["198.51.100.7"]


def _first_that_is_none(values: Values) -> None:
    values["primary"] = ""


def _no_machine(values: Values) -> None:
    values["machines"] = []


def _two_of_a_name(values: Values) -> None:
    values["machines"][1]["name"] = "one"


def _two_on_a_node(values: Values) -> None:
    values["machines"][1]["node"] = "worker-1"


def _no_state(values: Values) -> None:
    del values["machines"][0]["folder"]


def _two_states(values: Values) -> None:
    values["machines"][0]["claim"] = "one"


def _two_primaries(values: Values) -> None:
    values["primary"] = ["one", "two"]


def _primary_elsewhere(values: Values) -> None:
    values["primary"] = "four"


def _nobody_to_ask(values: Values) -> None:
    values["machines"] = values["machines"][:1]
    values["primary"] = ""


def _latest(values: Values) -> None:
    values["image"] = {"repository": "registry.example/rkeyserver", "tag": "latest"}


def _not_pinned(values: Values) -> None:
    values["image"] = {"repository": "registry.example/rkeyserver"}


def _plain_pccs(values: Values) -> None:
    values["pccs"]["url"] = "http://pccs.example:8081/sgx/certification/v4"


def _pccs_ca_elsewhere(values: Values) -> None:
    values["pccs"]["ca"] = "../pccs-ca.pem"


def _no_pccs_for_aesmd(values: Values) -> None:
    values["pccs"] = {}


def _unknown(values: Values) -> None:
    values["replicas"] = 2


def _words_for_the_shell(values: Values) -> None:
    values["hosts"] = ["198.51.100.7 --domain"]


def _no_aesmd_image(values: Values) -> None:
    del values["aesmd"]["image"]


def _a_number_of_bytes(values: Values) -> None:
    values["epc"] = "a lot"


WRONG: dict[str, tuple[str, Callable[[Values], None], str]] = {
    "no domain": ("primary-and-backups", _no_domain, "/domain"),
    "a domain that is none": ("primary-and-backups", _another_domain, "/domain"),
    "a first start of a domain that is there": ("primary-and-backups", _first_with_domain, "/domain"),
    "a first start of two": ("first", _first_of_two, "/machines"),
    "a first start that asks": ("first", _first_that_asks, "/hosts"),
    "a first start of nobody": ("first", _first_that_is_none, "/primary"),
    "no machine": ("primary-and-backups", _no_machine, "/machines"),
    "two of a name": ("primary-and-backups", _two_of_a_name, "two are named one"),
    "two on a machine": ("primary-and-backups", _two_on_a_node, "two are on the node worker-1"),
    "no state": ("primary-and-backups", _no_state, "/machines/0"),
    "two states": ("primary-and-backups", _two_states, "/machines/0"),
    "two that ask nobody": ("primary-and-backups", _two_primaries, "/primary"),
    "one that asks nobody and is no machine": ("primary-and-backups", _primary_elsewhere, "four is none of machines"),
    "nobody to ask": ("primary-and-backups", _nobody_to_ask, "nobody to ask"),
    "the latest image": ("primary-and-backups", _latest, "/image"),
    "an image that is not pinned": ("primary-and-backups", _not_pinned, "/image"),
    "a PCCS without TLS": ("primary-and-backups", _plain_pccs, "/pccs/url"),
    "a CA that the enclave cannot reach": ("primary-and-backups", _pccs_ca_elsewhere, "/pccs/ca"),
    "no PCCS for aesmd": ("primary-and-backups", _no_pccs_for_aesmd, "a quote needs this machine's certificate"),
    "a key that is none": ("primary-and-backups", _unknown, "additional properties 'replicas'"),
    "two words in one": ("primary-and-backups", _words_for_the_shell, "/hosts/0"),
    "no image of aesmd": ("primary-and-backups", _no_aesmd_image, "/aesmd/image"),
    "a size that is none": ("primary-and-backups", _a_number_of_bytes, "/epc"),
}
