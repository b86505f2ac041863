"""Attested release from a closed server over the stand-in to an enclave on another chip: real processes, no switch."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import httpx
import pytest
from tests.fakes.admins import change
from tests.fakes.machines import anchor_of, private_authority
from tests.fakes.processes import DEADLINE, opened
from tests.sgx.machines import IMAGE, SgxMachine, SgxMachines, Stand, sgx_machines_in
from tests.sgx.state import Enclave, State

from rkeyserver.attestation.sgx.verify import SgxVerifier
from rkeyserver.client import enclave
from rkeyserver.client.release import key, release
from rkeyserver.errors import Misuse, Reason, Rejected
from rkeyserver.keyring.derived import derive
from rkeyserver.platforms import registry
from rkeyserver.platforms.sgx import device
from rkeyserver.platforms.simulated.processor import open_processor

MINE: Final = Enclave(mrenclave="e5" * 32, mrsigner="51" * 32, isv_prod_id=42, isv_svn=3)
HERE: Final = "tests.sgx.test_release.root"


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[SgxMachines]:
    with sgx_machines_in(tmp_path) as made:
        yield made


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    """The /dev/attestation of the enclave that asks, and this process put together as it is in there."""
    chip = tmp_path / "elsewhere"
    chip.mkdir()
    open_processor(chip)
    stand = Stand(tmp_path / "elsewhere.sgx", State(processor=str(chip), enclave=MINE))
    verify = SgxVerifier(platform=registry.SGX, anchor=anchor_of(private_authority()))
    monkeypatch.setitem(sys.modules, HERE, SimpleNamespace(verify=verify))
    monkeypatch.setitem(registry._VERIFIERS, registry.SGX, f"{HERE}:verify")
    monkeypatch.setattr(device, "DEVICE", stand.ready())
    try:
        yield stand
    finally:
        stand.close()


def change_policy(host: SgxMachine, *tables: str) -> None:
    """Have the domain's admin sign it, and the host apply it."""
    at = f"http://{host.ops}/v1/policy"
    now = httpx.get(at, trust_env=False, timeout=DEADLINE).json()
    text = "\n".join((now["policy"], *tables))
    signed = change(now["change"] + 1, now["policy"], text, ["ada"], domain=now["domain"])
    answer = httpx.post(at, content=signed.text().encode(), trust_env=False, timeout=DEADLINE)
    assert answer.status_code == 200, answer.text


def test_an_enclave_on_another_chip_gets_the_keys_that_the_admins_signed_for_it(
    machines: SgxMachines, elsewhere: Stand
) -> None:
    host = machines("host")
    host.start()
    attester = enclave.gramine()
    assert attester.endorsements() == b""  # it brings no collateral: the server has some, or gets it
    change_policy(host, enclave.entry(attester, ["db/*"]))
    domain = str(host.status()["domain"])
    trusted = enclave.servers("sgx", mrsigner=IMAGE.mrsigner, isv_prod_id=IMAGE.isv_prod_id)
    with release(
        [host.address], ["db/a", key("db/b", size=64)], domain=domain, attester=attester, policy=trusted
    ) as got:
        with contextlib.closing(opened(host)) as keyring:
            for label, size in (("db/a", 32), ("db/b", 64)):
                with derive(keyring, label.encode(), size=size, generation="current").secret as secret:
                    assert got[label] == secret
        assert got.server == host.ppid
    (line,) = (one for one in host.audit() if one["event"] == "release")
    assert (line["verdict"], line["labels"]) == ("accepted", ["db/a", "db/b"])
    assert line["peer"]["mrenclave"] == MINE.mrenclave

    # Another image on that chip, or another program than the server that it trusts, and there is no key.
    elsewhere.change(enclave=Enclave(mrenclave="e6" * 32, mrsigner="51" * 32, isv_prod_id=42, isv_svn=3))
    with pytest.raises(Rejected) as refused:
        release([host.address], ["db/a"], domain=domain, attester=enclave.gramine(), policy=trusted)
    assert refused.value.reason is Reason.REFUSED_BY_PEER
    assert host.status()["refused"] == {"enclave-not-named": 1}
    elsewhere.change(enclave=MINE)
    other = enclave.servers("sgx", mrsigner="00" * 32, isv_prod_id=IMAGE.isv_prod_id)
    with pytest.raises(Rejected) as refused:
        release([host.address], ["db/a"], domain=domain, attester=enclave.gramine(), policy=other)
    assert refused.value.reason is Reason.WRONG_SIGNER
    assert json.dumps(host.status()["hand_overs"]) == "0"


def test_outside_of_an_enclave_there_is_no_attester(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "DEVICE", tmp_path)
    with pytest.raises(Misuse, match="in no SGX enclave"):
        enclave.gramine()
