"""Says something in the chat room and shows what is heard until then. Arguments: the gateway's address, what to say, and the Origin that a
browser would send. The variable TOKEN has the bearer token, if there is one."""
import asyncio
import os
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

address, message, origin = sys.argv[1:4]
token = os.environ.get("TOKEN")
headers = {"authorization": f"Bearer {token}"} if token else {}


async def main():
    try:
        # The gateway is on this machine: no proxy of the environment stands between.
        async with connect(f"ws://{address}/chat", origin=origin, additional_headers=headers, proxy=None) as socket:
            await socket.send(message)
            async for heard in socket:
                print(heard)
                if heard.endswith(f": {message}"):
                    break
    except InvalidStatus as refused:
        print(refused.response.status_code)


asyncio.run(main())
