"""Which tokens are revoked?"""
