"""The app of the examples keeps its data in a folder of the tests."""

import os
from tempfile import mkdtemp

folder = mkdtemp()
os.environ["DATABASE_URL"] = f"sqlite+aiosqlite:///{folder}/users.db"
os.environ["SESSIONS"] = f"{folder}/sessions.db"
