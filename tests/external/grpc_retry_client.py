"""Calls that the gateway repeats, and their deadlines. Argument: host:port of the gateway."""
import sys

import grpc

options = (("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0))
channel = grpc.insecure_channel(sys.argv[1], options=options)


def call(method, request, timeout=30):
    return channel.unary_unary(f"/test.Retry/{method}")(request, timeout=timeout)


for method in ("Unavailable", "Exhausted"):
    answer = call(method, method.encode())
    assert answer == b"attempt 3: " + method.encode(), answer
try:
    call("Broken", b"broken")
    raise SystemExit("no error")
except grpc.RpcError as error:
    assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "attempt 1"), error

left = int(call("Left", b"", timeout=20))
# The client rounds its timeout up.
assert 10_000 < left <= 21_000, left
try:
    call("Slow", b"", timeout=0.5)
    raise SystemExit("no error")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
print("fine")
