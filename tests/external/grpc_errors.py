"""Errors of the gateway as a client of gRPC sees them. Argument: host:port of a gateway without a server behind it."""
import sys

import grpc

channel = grpc.insecure_channel(sys.argv[1], options=(("grpc.enable_http_proxy", 0),))


def error(method, metadata=()):
    try:
        channel.unary_unary(method)(b"", timeout=30, metadata=metadata)
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise SystemExit(f"no error of {method}")


code = grpc.StatusCode
assert error("/test.Echo/Call") == (code.UNAVAILABLE, "The service could not be reached."), error("/test.Echo/Call")
assert error("/test.Echo/Call", (("x-unknown", "1"),))[0] == code.UNAUTHENTICATED
assert error("/other/Call") == (code.UNIMPLEMENTED, "There is nothing at this address."), error("/other/Call")
print("fine")
