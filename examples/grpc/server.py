"""The stock service behind the gateway. Argument: port (default 50051; 0: a free one)."""
import os
import sys
from concurrent import futures

import grpc

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
messages, services = grpc.protos_and_services("stock.proto")
levels = {"17": 4}


class Stock(services.StockServicer):
    def Get(self, item, context):
        if item.id not in levels:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no item {item.id}")
        return messages.Level(item=item.id, pieces=levels[item.id])

    def Watch(self, item, context):
        for pieces in (3, 2, 1, 0):
            yield messages.Level(item=item.id, pieces=pieces)
        context.set_trailing_metadata((("x-watch", "sold out"),))

    def Set(self, level, context):
        levels[level.item] = level.pieces
        return level


server = grpc.server(futures.ThreadPoolExecutor(8))
services.add_StockServicer_to_server(Stock(), server)
port = server.add_insecure_port(f"127.0.0.1:{sys.argv[1] if len(sys.argv) > 1 else 50051}")
server.start()
print(f"listening on 127.0.0.1:{port}", flush=True)
server.wait_for_termination()
