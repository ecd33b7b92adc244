"""Which keys verify a token, and where do they come from?"""
