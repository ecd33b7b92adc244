"""May this version of the package use what another version has stored? Pure.

Each store numbers its layouts, and keeps two numbers: the layout of what is stored, and the oldest layout whose workers
can use it. So old and new workers can run side by side:

1. A worker that meets a later layout goes on, as long as the oldest one is not later than its own. It leaves alone what
   it does not know.
2. Otherwise, it refuses each step in the words of ``explain_later``.
3. A worker that meets an earlier layout brings it up to date (SQLite), uses it as it is until it is migrated
   (PostgreSQL), or brings each session up to date with the session's next change (Redis).
"""


def explain_later(stored: str, layout: int, oldest: int, own: int) -> str:
    """Why a worker of the layout ``own`` cannot use what is ``stored``, and what would work."""
    return (
        f"{stored} layout {layout}, which needs workers of layout {oldest} or later, and this worker has layout {own}: "
        "install a newer version of the package here"
    )
