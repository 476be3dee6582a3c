"""A bidirectional stream, message by message, and an error, through the gateway. Argument: host:port."""
import queue
import sys

import grpc

channel = grpc.insecure_channel(sys.argv[1], options=(("grpc.enable_http_proxy", 0),))
chat = channel.stream_stream("/test.Echo/Chat")
outgoing = queue.Queue()
call = chat(iter(outgoing.get, None), timeout=30)
for n in range(20):
    # The answer to each message comes while the request is still open: nothing in between buffers.
    outgoing.put(b"%d" % n)
    assert next(call) == b"echo %d" % n
outgoing.put(b"x" * 1_000_000)
assert len(next(call)) == 1_000_005
outgoing.put(None)
assert next(call, None) is None
assert call.code() == grpc.StatusCode.OK, call.code()
assert ("x-last", "yes") in [(m.key, m.value) for m in call.trailing_metadata()], call.trailing_metadata()
try:
    channel.unary_unary("/test.Echo/Fail")(b"", timeout=30)
    raise SystemExit("no error")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
    assert error.details() == "not now", error
print("fine")
