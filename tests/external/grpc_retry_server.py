"""A gRPC server whose calls fail the first times, or take long, on a free port, which it prints."""
import threading
from concurrent import futures

import grpc

seen, lock = {}, threading.Lock()


def times(request):
    with lock:
        seen[request] = seen.get(request, 0) + 1
        return seen[request]


def flaky(code):
    def call(request, context):
        attempt = times(request)
        if attempt < 3:
            context.abort(code, "not yet")
        return b"attempt %d: %s" % (attempt, request)

    return grpc.unary_unary_rpc_method_handler(call)


def broken(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "attempt %d" % times(request))


def left(request, context):
    return b"%d" % (context.time_remaining() * 1000)


def slow(request, context):
    context_over = threading.Event()
    context.add_callback(context_over.set)
    context_over.wait(30)
    return b"late"


def stream(request, context):
    context_over = threading.Event()
    context.add_callback(context_over.set)
    yield b"first"
    context_over.wait(30)


handlers = {
    "Unavailable": flaky(grpc.StatusCode.UNAVAILABLE),
    "Exhausted": flaky(grpc.StatusCode.RESOURCE_EXHAUSTED),
    "Broken": grpc.unary_unary_rpc_method_handler(broken),
    "Left": grpc.unary_unary_rpc_method_handler(left),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
    "Stream": grpc.unary_stream_rpc_method_handler(stream),
}
server = grpc.server(futures.ThreadPoolExecutor(8))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Retry", handlers),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
server.wait_for_termination()
