"""Where sessions are kept."""

from .memory import MemoryStore
from .redis import RedisStore
from .sql import SQLStore
from .sqlite import SQLiteStore

__all__ = ["MemoryStore", "RedisStore", "SQLStore", "SQLiteStore"]
