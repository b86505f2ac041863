"""The policy of a domain that was created without one."""

from __future__ import annotations

import importlib.resources

from rkeyserver.appraisal.policy import Policy, parse_policy
from rkeyserver.errors import Misuse


def default_policy(platform: str, *, mrsigner: str, isv_prod_id: int) -> Policy:
    """The default of `platform` for domains made by this very product: its signer (hex) and product id.

    Raises: Misuse for a platform that has none.
    """
    try:
        template = importlib.resources.files(__package__).joinpath(f"default_{platform}.toml").read_text("utf-8")
    except FileNotFoundError as error:
        raise Misuse(f"There is no default policy for platform {platform}.") from error
    return parse_policy(template.replace("@MRSIGNER@", mrsigner).replace("@ISV_PROD_ID@", str(isv_prod_id)))
