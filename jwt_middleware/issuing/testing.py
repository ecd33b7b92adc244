"""The contract of session stores, under the name by which the issuing half offers it."""

from ..testing.store_contract import REALM, StoreContract, opening, revocation_request, rotation

__all__ = ["REALM", "StoreContract", "opening", "revocation_request", "rotation"]
