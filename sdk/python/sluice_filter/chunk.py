"""The pieces of a body that streams: what the hooks of pieces are given, and what they say of them."""

from typing import Optional, Union

from wit_world.imports import chunk as host  # type: ignore

from ._errors import checked
from ._message import Request, Response

_length = checked("chunk.length", host.length)
_read = checked("chunk.read", host.read)
_is_last = checked("chunk.is-last", host.is_last)
_replace = checked("chunk.replace", host.replace)
_hold = checked("chunk.hold", host.hold)
_end = checked("chunk.end", host.end)
_pass_rest = checked("chunk.pass-rest", host.pass_rest)
_event_name = checked("chunk.event-name", host.event_name)
_event_id = checked("chunk.event-id", host.event_id)
_event_data = checked("chunk.event-data", host.event_data)
_set_event_data = checked("chunk.set-event-data", host.set_event_data)


class _Piece:
    """It goes on as it is unless something else is said of it. The head has been sent: `request` and `response` can be read."""

    request = Request()
    #: In the hooks of the response.
    response = Response()

    def length(self) -> int:
        """Its length in bytes, with what was kept back of the ones before it."""
        return _length()

    def read(self, offset: int = 0, length: Optional[int] = None) -> bytes:
        """The whole piece, or up to `length` bytes of it from `offset`."""
        return bytes(_read(offset, _length() if length is None else length))

    def is_last(self) -> bool:
        """Whether the body ends with it. Each body that comes whole has one such piece, and it may be empty."""
        return _is_last()

    def replace(self, content: Union[bytes, str]) -> None:
        """Sends these bytes, or this text, in its place."""
        _replace(content.encode() if isinstance(content, str) else bytes(content))

    def drop(self) -> None:
        """Sends nothing in its place."""
        _replace(b"")

    def end(self) -> None:
        """Ends the body after it: what the sender still sends is discarded."""
        _end()

    def pass_rest(self) -> None:
        """Lets the rest of the body go on without further calls of this hook."""
        _pass_rest()


class Chunk(_Piece):
    """A piece of a body, in `on_request_chunk` and `on_response_chunk`: at most 16 KiB, as the sender has sent them."""

    def hold(self, tail: int) -> None:
        """Keeps its last bytes back: they come again in front of the next piece. With `replace`, the replacement stands for what is in front of them."""
        _hold(tail)


class Event(_Piece):
    """A server-sent event or a line of NDJSON, in `on_response_event`: always whole."""

    def name(self) -> Optional[str]:
        """The value of its last `event` field."""
        return _event_name()

    def id(self) -> Optional[str]:
        """The value of its last `id` field."""
        return _event_id()

    def data(self) -> Optional[str]:
        """Its data, or the line; None for a comment, for the end of the body, and where it is not UTF-8."""
        return _event_data()

    def set_data(self, data: str) -> None:
        """Gives it other data and leaves the rest of it as it is."""
        _set_event_data(data)
