"""A client of the stock service. Arguments: the gateway's address, then `get ITEM`, `watch ITEM` or `set ITEM PIECES`.
The variable TOKEN has the bearer token, if there is one."""
import os
import sys

import grpc

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
messages, services = grpc.protos_and_services("stock.proto")
address, call, item, *pieces = sys.argv[1:]
# The gateway is on this machine: no proxy of the environment stands between.
stock = services.StockStub(grpc.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)))
token = os.environ.get("TOKEN")
options = {"metadata": (("authorization", f"Bearer {token}"),) if token else (), "timeout": 10}
try:
    if call == "get":
        print(stock.Get(messages.Item(id=item), **options).pieces)
    elif call == "set":
        print(stock.Set(messages.Level(item=item, pieces=int(pieces[0])), **options).pieces)
    else:
        levels = stock.Watch(messages.Item(id=item), **options)
        for level in levels:
            print(level.pieces)
        print(*(value for name, value in levels.trailing_metadata() if name == "x-watch"))
except grpc.RpcError as error:
    print(error.code().name)
