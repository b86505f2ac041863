"""The policies that come with the program: of a domain created without one, and of a joiner that has none yet."""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Sequence

from rkeyserver.appraisal.policy import Policy, parse_policy
from rkeyserver.errors import Misuse


def default_policy(platform: str, *, mrsigner: str, isv_prod_id: int, machine: str = "") -> Policy:
    """The default of `platform` for domains made by this very product: its signer (hex) and product id.

    machine: the one that makes the domain, by its name on the platform; a closed default accepts it alone, and is an
    error without it. Raises: Misuse, also for a platform that has no default.
    """
    found = _filled(f"default_{platform}.toml", signers=[mrsigner], isv_prod_id=isv_prod_id, machine=machine)
    if found is None:
        raise Misuse(f"There is no default policy for platform {platform}.")
    return found


def joining_policy(platform: str, *, mrsigner: str, isv_prod_id: int, former_signers: Sequence[str] = ()) -> Policy:
    """What a joiner without a record goes by that was given no policy.

    Where the default is closed, another that accepts the product on any machine: only for a joiner that has admins, for
    whom they have signed which machines. former_signers: other signers (hex) of the same product to accept there.
    Raises: Misuse for a platform that has neither.
    """
    signers = list(dict.fromkeys([mrsigner, *former_signers]))
    found = _filled(f"joining_{platform}.toml", signers=signers, isv_prod_id=isv_prod_id, machine="")
    return found or default_policy(platform, mrsigner=mrsigner, isv_prod_id=isv_prod_id)


def _filled(name: str, *, signers: list[str], isv_prod_id: int, machine: str) -> Policy | None:
    try:
        # Not importlib.resources: with all that it loads itself it is a dozen files more at each start.
        data = pkgutil.get_data(__package__, name)
    except OSError:
        data = None
    if data is None:
        return None
    template = str(data, "utf-8")
    values = {
        "@MACHINES@": json.dumps([machine]),
        "@MRSIGNERS@": json.dumps(signers),
        "@ISV_PROD_ID@": str(isv_prod_id),
    }
    for mark, value in values.items():
        template = template.replace(mark, value)
    return parse_policy(template)
