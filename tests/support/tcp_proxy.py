"""A TCP proxy on loopback that loses answers and leads elsewhere on command."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from .redis_server import free_port


class Proxy:
    def __init__(self, target: int) -> None:
        self.port = free_port()
        self.target = target
        self.loses = False
        """Whether the next answer is thrown away, and its connection with it. The server has done its work by then."""
        self.spared = 0
        """How many answers pass before that."""
        self.delay = 0.0
        """Seconds for which each message is kept."""
        self._open: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Break all connections."""
        for writer in self._open:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            answers, asks = await asyncio.open_connection("127.0.0.1", self.target)
            self._open |= {writer, asks}
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, asks, writer, loses=False))
                both.create_task(self._pass(answers, writer, asks, loses=True))
            self._open -= {writer, asks}
        writer.close()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, other: asyncio.StreamWriter, *, loses: bool
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if loses and self.loses and not self.spared:
                    self.loses = False
                    break
                if loses and self.loses:
                    self.spared -= 1
                await asyncio.sleep(self.delay)
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
        other.transport.abort()


@asynccontextmanager
async def tcp_proxy(target: int) -> AsyncIterator[Proxy]:
    """A proxy to the port ``target``."""
    proxy = Proxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", proxy.port)
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
        await asyncio.sleep(0.01)
