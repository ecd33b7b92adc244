"""The contract of session stores, under the name by which the issuing half offers it."""

from ..testing.store_contract import FAR, PROVIDER, StoreContract, opening, rotation

__all__ = ["FAR", "PROVIDER", "StoreContract", "opening", "rotation"]
