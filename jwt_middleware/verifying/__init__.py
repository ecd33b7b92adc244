"""Is this token good now?"""
