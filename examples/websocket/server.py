"""A chat room over WebSocket: whatever one says, all hear. Argument: port (default 9000; 0: a free one)."""
import asyncio
import sys

from websockets.asyncio.server import broadcast, serve

people = set()


async def join(socket):
    name = socket.request.headers.get("x-user-id", "?")
    people.add(socket)
    broadcast(people, f"{name} has come")
    try:
        async for message in socket:
            broadcast(people, f"{name}: {message}")
    finally:
        people.remove(socket)


async def main():
    async with serve(join, "127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 9000) as server:
        print(f"listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


asyncio.run(main())
