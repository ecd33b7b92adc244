"""Which issuers does a template stand for? Pure."""

import re
from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any

from ._support.arguments import show
from .errors import ConfigurationError, InvalidClaim, MissingClaim

COMMON = "common"
"""The placeholder for a tenant in a document about all tenants."""

TENANT_CLAIM = "tid"
"""The claim that names the tenant of a token."""


class IssuerTemplate:
    """The issuers of many tenants, such as ``https://login.microsoftonline.com/{tenantid}/v2.0``.

    The placeholder is one whole segment of the path and stands for a GUID. ``tenants`` holds the GUIDs that are
    accepted; None accepts any. Raises ``ConfigurationError``.
    """

    def __init__(self, template: str, tenants: Collection[str] | None) -> None:
        found = re.fullmatch(r"([a-z]+://[^/{}?#]+(?:/[^/{}?#]+)*/)\{[A-Za-z_]+\}((?:/[^{}?#]*)?)", template)
        if found is None:
            raise ConfigurationError(
                "issuer: a template has one placeholder, which is a whole segment of the path, for instance "
                '"https://login.microsoftonline.com/{tenantid}/v2.0"'
            )
        self.text = template
        self.common = f"{found[1]}{COMMON}{found[2]}"
        """The address of the issuer for all tenants, where the metadata is."""
        self._pattern = re.compile(f"{re.escape(found[1])}({_GUID}){re.escape(found[2])}")
        self._tenants = None if tenants is None else frozenset(tenant.lower() for tenant in tenants)

    def find_tenant(self, issuer: str) -> str | None:
        """The tenant of ``issuer``. None if ``issuer`` does not fit this template, or its tenant is not accepted."""
        found = self._pattern.fullmatch(issuer)
        if found is None or (self._tenants is not None and found[1].lower() not in self._tenants):
            return None
        return found[1]

    def check_tenant(self, claims: Mapping[str, Any], tenant: str) -> None:
        """Raises ``MissingClaim`` or ``InvalidClaim`` unless the token itself names ``tenant``."""
        if claims.get(TENANT_CLAIM) is None:
            raise MissingClaim(claim=TENANT_CLAIM)
        if claims[TENANT_CLAIM] != tenant:
            raise InvalidClaim(claim=TENANT_CLAIM)


def is_template(issuer: object) -> bool:
    """Whether ``issuer`` has a placeholder."""
    return isinstance(issuer, str) and "{" in issuer


def check_not_common(issuer: str) -> None:
    """Raise ``ConfigurationError`` for an address of Microsoft Entra ID that stands for many tenants.

    Their tokens have the issuer of their own tenant, so no token would be accepted.
    """
    found = re.fullmatch(
        r"(https://login\.microsoftonline\.[a-z.]+/)(?:common|organizations|consumers)(/v2\.0)?/?", issuer
    )
    if found is not None:
        raise ConfigurationError(
            f"issuer: no token has the issuer {issuer!r}, which stands for many tenants; give the one of your tenant, "
            f"or issuer={found[1] + '{tenantid}/v2.0'!r} with tenants="
        )


def check_tenants(tenants: object, any_tenant: Enum) -> Collection[str] | None:
    """``tenants``, a list of GUIDs, or None for ``ANY``. Raises ``ConfigurationError`` for anything else."""
    if tenants is any_tenant:
        return None
    if tenants is None:
        raise ConfigurationError(
            "tenants is required beside a template: the GUIDs of the tenants whose tokens are accepted, or tenants=ANY "
            "for every customer of the identity provider"
        )
    if isinstance(tenants, str) or not isinstance(tenants, Collection) or not tenants:
        raise ConfigurationError(f"tenants must be a list of GUIDs, or ANY, not {show(tenants)}")
    for tenant in tenants:
        if not isinstance(tenant, str) or not re.fullmatch(_GUID, tenant):
            raise ConfigurationError(f"tenants: {show(tenant)} is not a GUID")
    return tenants


def fits_issuer(issuer: str, claims: Mapping[str, Any]) -> bool:
    """Whether a key whose JWK names this ``issuer``, perhaps with a placeholder, may verify a token with ``claims``."""
    tenant = claims.get(TENANT_CLAIM)
    if "{" in issuer:
        if not isinstance(tenant, str):
            return False
        issuer = re.sub(r"\{[A-Za-z_]+\}", lambda _: tenant, issuer, count=1)
    return issuer == claims.get("iss")


_GUID = "[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}"
