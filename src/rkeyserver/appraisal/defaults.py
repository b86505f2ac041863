"""The policy of a domain that was created without one."""

from __future__ import annotations

import importlib.resources

from rkeyserver.appraisal.policy import Policy, parse_policy


def default_policy(platform: str, *, mrsigner: str, isv_prod_id: int) -> Policy:
    """The default of `platform` for domains made by this very product: its signer (hex) and product id."""
    template = importlib.resources.files(__package__).joinpath(f"default_{platform}.toml").read_text(encoding="utf-8")
    return parse_policy(template.replace("@MRSIGNER@", mrsigner).replace("@ISV_PROD_ID@", str(isv_prod_id)))
