"""Bodies that stream, for the double of the gateway: pieces one after the other, with what the filter says of each."""

import re
from dataclasses import dataclass
from typing import Optional


@dataclass
class Piece:
    content: bytes
    is_last: bool
    #: Whether it is a line or a server-sent event; None for a chunk.
    is_line: Optional[bool]
    replacement: Optional[bytes] = None
    held: int = 0
    ends: bool = False
    passes_rest: bool = False


def stream(exchange, pieces, is_line, call):
    sent, kept = [], b""
    for at, part in enumerate([*pieces, b""]):
        piece = exchange.piece = Piece(kept + part, at == len(pieces), is_line)
        call()
        front = len(piece.content) - piece.held
        sent.append(piece.content[:front] if piece.replacement is None else piece.replacement)
        kept = piece.content[front:]
        if piece.ends:
            break
        if piece.passes_rest:
            sent.append(b"".join([kept, *pieces[at + 1 :]]))
            break
    exchange.piece = None
    return sent


def events(body, are_lines):
    return re.findall(rb"[^\n]*\n|[^\n]+$" if are_lines else rb"(?:.+\n)*(?:.*\n|.+$)", body)


def functions(current, refuse):
    """The functions of the interface on the current piece."""

    def piece():
        return current() or refuse("WrongHook", "there is no piece here")

    def event():
        if piece().is_line is None:
            refuse("WrongHook", "the piece is no event")
        # Each byte as a character: what is not UTF-8 stays as it is.
        return piece().content.decode("latin-1")

    def text(value):
        """What is not UTF-8 is absent."""
        try:
            return value and value.encode("latin-1").decode()
        except UnicodeDecodeError:
            return None

    def values(name):
        lines = [line.partition(":") for line in event().split("\n")]
        return [value.removeprefix(" ") for field, _, value in lines if field == name]

    def part(name):
        return lambda: None if piece().is_line else text(next(reversed(values(name)), None))

    def data():
        if piece().is_line:
            return text(event().removesuffix("\n")) or None
        found = values("data")
        return text("\n".join(found)) if found else None

    def set_data(data):
        if piece().is_line and "\n" in data:
            refuse("Invalid", "a line end in the data of a line")
        others = [line for line in event().split("\n") if line and line.partition(":")[0] != "data"]
        given = data.encode().decode("latin-1").split("\n")
        lines = [*given, ""] if piece().is_line else [*others, *(f"data: {line}" for line in given), "", ""]
        piece().replacement = "\n".join(lines).encode("latin-1")

    def hold(tail):
        if piece().is_line is not None:
            refuse("WrongHook", "an event can't be held")
        if tail > len(piece().content) or (tail and piece().is_last):
            refuse("Invalid", f"{tail} bytes can't be kept back")
        piece().held = tail

    def said(name):
        return lambda *values: setattr(piece(), name, *(values or (True,)))

    return {
        "length": lambda: len(piece().content),
        "read": lambda offset, length: piece().content[offset : offset + length],
        "is_last": lambda: piece().is_last,
        "replace": said("replacement"),
        "hold": hold,
        "end": said("ends"),
        "pass_rest": said("passes_rest"),
        "event_name": part("event"),
        "event_id": part("id"),
        "event_data": data,
        "set_event_data": set_data,
    }
