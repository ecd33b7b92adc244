"""What does an error of Redis mean, and what should the operator do? Pure."""

import re

from .layouts import explain_later

COMMANDS = (
    "+evalsha +script|load +time +get +set +del +pttl +pexpireat +zadd +zrem +zrange +zcard +zrangebyscore +zscore "
    "+hincrby +hset +hmget +info"
)
"""The commands that the ACL of a strict server must allow."""


def explain(error: BaseException, prefix: str, layout: int) -> str:
    """A text about ``error`` for the log; ``prefix`` is what the names of all keys begin with, ``layout`` is ours.

    An error reply repeats the arguments of the command, with the id of a session in them. Only the first word of
    a reply, the error code, is repeated.
    """
    name = type(error).__name__
    reply = str(error)
    # Our scripts reply with this. A pipeline adds its own text to the error of a command.
    later = re.search(r"LAYOUT (\d+) (\d+)\W*$", reply)
    if later is not None:
        return explain_later("the keys have", int(later[1]), int(later[2]), layout)
    if name in _CLUSTER or reply.startswith(("MOVED", "ASK ")):
        return (
            f"{name}: this server is part of a cluster; give the store a function that makes its client: "
            "RedisStore(lambda: RedisCluster(host=..., port=...))"
        )
    if "unknown command" in reply:
        return (
            f"{name}: this server does not know scripts, as a Sentinel does not; for Sentinels give the store a "
            "function that makes the master's client: RedisStore(lambda: Sentinel([...]).master_for(name))"
        )
    if name == "NoPermissionError" or "NOPERM" in reply or "ACL failure" in reply or "can't run this command" in reply:
        return f"{name}: the ACL of this user must allow ~{prefix}* {COMMANDS}"
    if "SSL" in name or "SSL" in reply or "SSL" in type(error.__cause__).__name__:
        reason = getattr(error, "reason", None) or getattr(error.__cause__, "reason", None) or "SSLError"
        return f"{name}: TLS failed: {reason}; rediss:// is for TLS ports, redis:// for plain ones"
    if name == "InvalidResponse" or "Connection closed by server" in reply or "Connection reset" in reply:
        return f"{name}: the server closed the connection; if this is a TLS port, its address begins with rediss://"
    if name == "AuthenticationError":
        return f"{name}: the server refuses the user name or password, or needs one: redis://user:password@host:6379/0"
    code = reply.split(" ", 1)[0]
    if name in _ANSWERS or code.isupper():
        return f"{name}: {code if code.isupper() else 'the server refuses the command'}"
    return f"{name}: {reply}"


_CLUSTER = frozenset({"MovedError", "AskError", "ClusterCrossSlotError", "RedisClusterException"})
_ANSWERS = frozenset({"ResponseError", "DataError"})
