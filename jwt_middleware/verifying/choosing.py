"""Which provider may have made this token? Its signer says it, or else its issuer."""

from collections.abc import Mapping, MutableSequence, Sequence
from typing import Any, TypeAlias

from .._support.listing import list_names
from ..errors import InvalidClaim, MalformedToken, MissingClaim, Refusal, UnknownIssuer, WrongIssuer
from ..events import Advice
from ..keys.key_set import KeySet
from ..keys.source import KeySource
from ..provider import Provider
from ..resolver import ResolvedProviders
from ..telling import Events, escape
from .compact import Compact, PaddedCompact, json_again
from .configuration import index_issuers, index_signers, list_issuers
from .misspelling import PADDING

Candidate: TypeAlias = tuple[int, KeySet]
"""The index of a provider that may have made a token, and the keys to try."""


class Candidates:
    """Finds the providers of a ``Verifier`` that may have made a token, by what the token says.

    ``configured`` are the providers of the configuration. ``providers`` and ``keys`` are the verifier's: those of
    ``resolved`` are put behind the configured ones. Raises ``ConfigurationError`` if two providers clash.
    """

    def __init__(
        self,
        configured: tuple[Provider, ...],
        providers: MutableSequence[Provider],
        keys: MutableSequence[KeySource],
        resolved: ResolvedProviders | None,
        events: Events,
    ) -> None:
        self._configured = configured
        self._providers = providers
        self._keys = keys
        self._resolved = resolved
        self._events = events
        # Providers by their indices.
        self._by_issuer = index_issuers(configured)
        self._by_signer = index_signers(configured)
        self._templates = tuple(
            (index, provider.template) for index, provider in enumerate(configured) if provider.template is not None
        )
        self._without_issuer = tuple(
            index
            for index, provider in enumerate(configured)
            if not provider.issuers and provider.load_balancer is None
        )
        self._expected_issuers = list_issuers(configured, has_resolver=resolved is not None)
        self._are_all_load_balancers = resolved is None and all(provider.load_balancer for provider in configured)
        self._without_slash = {issuer.rstrip("/"): issuer for issuer in self._by_issuer}
        self.may_be_padded = bool(self._by_signer)
        """Whether a token with padding may be good."""
        self.choose = self._choose_by_signer if self._by_signer else self._choose_by_issuer
        """``choose(claims, compact)``: the providers that may have made the token, with their keys.

        Raises the refusal of a token that none of them made.
        """

    def find_unresolved(self, claims: Mapping[str, Any], compact: Compact) -> str | None:
        """The issuer that the resolver must be asked about first. None if there is none."""
        if self._by_signer and (isinstance(compact, PaddedCompact) or _find_signer(compact) in self._by_signer):
            return None
        iss = claims.get("iss")
        if not isinstance(iss, str) or iss in self._by_issuer or self._resolved is None:
            return None
        if self._resolved.recall(iss) is not None:
            return None
        return None if any(template.find_tenant(iss) is not None for _, template in self._templates) else iss

    def _choose_by_signer(self, claims: Mapping[str, Any], compact: Compact) -> Sequence[Candidate]:
        signer = _find_signer(compact)
        index = None if signer is None else self._by_signer.get(signer)
        if index is None:
            if isinstance(compact, PaddedCompact) and signer is None:
                raise MalformedToken(found=PADDING.found)
            if isinstance(compact, PaddedCompact) or self._are_all_load_balancers:
                raise WrongIssuer(kid=compact.header.kid, expected=list_names(self._by_signer), found=signer)
            return self._choose_by_issuer(claims, compact)
        provider, iss = self._providers[index], claims.get("iss")
        assert provider.load_balancer is not None
        try:
            provider.load_balancer.check(compact.header)
            if provider.issuers and iss not in provider.issuers:
                found = iss if isinstance(iss, str) else None
                raise WrongIssuer(claim="iss", expected=list_names(provider.issuers), found=found)
        except Refusal as refusal:
            # Nothing is verified yet: the subject may be forged.
            refusal.provider, refusal.kid = provider.name, compact.header.kid
            raise
        return ((index, self._keys[index].current),)

    def _choose_by_issuer(self, claims: Mapping[str, Any], compact: Compact) -> Sequence[Candidate]:
        iss = claims.get("iss")
        if isinstance(iss, str):
            index = self._by_issuer.get(iss)
            if index is not None:
                return ((index, self._keys[index].current),)
            for index, template in self._templates:
                tenant = template.find_tenant(iss)
                if tenant is not None:
                    template.check_tenant(claims, tenant)
                    return ((index, self._keys[index].current),)
            if self._resolved is not None:
                resolved = self._resolved.recall(iss)
                if resolved is not None and resolved.index is not None:
                    return ((resolved.index, self._keys[resolved.index].current),)
            self._mention_slash(iss)
        if self._without_issuer:
            return [(index, self._keys[index].current) for index in self._without_issuer]
        if iss is None:
            raise MissingClaim(claim="iss", expected=self._expected_issuers)
        if not isinstance(iss, str):
            raise InvalidClaim(claim="iss", expected="a text", found=f"a value of the type {type(iss).__name__}")
        if len(self._configured) == 1 and self._resolved is None:
            name = self._configured[0].name
            raise WrongIssuer(provider=name, claim="iss", expected=self._expected_issuers, found=iss)
        raise UnknownIssuer(claim="iss", expected=self._expected_issuers, found=iss)

    def _mention_slash(self, iss: str) -> None:
        near = self._without_slash.get(iss.rstrip("/"))
        if near is not None:
            text = (
                f"refused a token: its issuer {escape(iss)!r} and the configured {near!r} differ by a trailing slash "
                "only; configure issuer= as the provider spells it (said once)"
            )
            self._events.tell(Advice(text=text), once=("slash", near))


def _find_signer(compact: Compact) -> str | None:
    """The load balancer that the header names, verified or not."""
    signer = json_again(compact.header.json).get("signer")
    return signer if isinstance(signer, str) else None
