"""The policy of a domain that was created without one."""

from __future__ import annotations

import importlib.resources

from rkeyserver.appraisal.policy import Policy, parse_policy
from rkeyserver.errors import Misuse


def default_policy(platform: str, *, mrsigner: str, isv_prod_id: int, machine: str = "") -> Policy:
    """The default of `platform` for domains made by this very product: its signer (hex) and product id.

    machine: the one that makes the domain, by its name on the platform; a closed default accepts it alone, and is an
    error without it. Raises: Misuse, also for a platform that has no default.
    """
    try:
        template = importlib.resources.files(__package__).joinpath(f"default_{platform}.toml").read_text("utf-8")
    except FileNotFoundError as error:
        raise Misuse(f"There is no default policy for platform {platform}.") from error
    for name, value in (("@MACHINE@", machine), ("@MRSIGNER@", mrsigner), ("@ISV_PROD_ID@", str(isv_prod_id))):
        template = template.replace(name, value)
    return parse_policy(template)
