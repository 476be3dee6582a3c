"""A gRPC server with a bidirectional echo and a failing call, on a free port, which it prints."""
from concurrent import futures

import grpc


def echo(requests, context):
    for request in requests:
        yield b"echo " + request
    context.set_trailing_metadata((("x-last", "yes"),))


def fail(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now")


handlers = {
    "Chat": grpc.stream_stream_rpc_method_handler(echo),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
}
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
server.wait_for_termination()
