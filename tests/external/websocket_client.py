"""Talks to the echo server through the gateway. Argument: URL."""
import asyncio
import sys

from websockets.asyncio.client import connect


async def main():
    async with connect(sys.argv[1], max_size=None, proxy=None) as socket:
        for message in ("hello", "ünïcode", b"\x00\xff", "x" * 1_000_000):
            await socket.send(message)
            assert await socket.recv() == message
        for n in range(200):
            await socket.send(str(n))
        for n in range(200):
            assert await socket.recv() == str(n)
        await (await socket.ping())
    assert socket.close_code == 1000, socket.close_code
    print("fine")


asyncio.run(main())
