"""Masks a word in texts and in server-sent events while they stream."""

from sluice_filter import Chunk, ConfigError, Event, Filter, check


class Mask(Filter):
    def __init__(self, config, setup):
        self.word = check(config, {"word": str})["word"].encode()
        if not self.word:
            raise ConfigError("word", "expected a word")
        self.stars = b"*" * len(self.word)
        setup.request_chunks(["text/plain"])
        setup.response_chunks(["text/plain"])
        setup.response_events(["text/event-stream"])

    def on_request_chunk(self, chunk: Chunk):
        self.mask(chunk)

    def on_response_chunk(self, chunk: Chunk):
        self.mask(chunk)

    def on_response_event(self, event: Event):
        data = event.data()
        if data is None:
            # A comment, or an event that is not UTF-8: that may have the word, too, and goes no further.
            try:
                event.read().decode()
            except UnicodeDecodeError:
                event.drop()
        elif self.word in data.encode():
            event.set_data(data.encode().replace(self.word, self.stars).decode())

    def mask(self, chunk: Chunk):
        *parts, last = chunk.read().split(self.word)
        # The network may have split the word: what may be its beginning is kept back until the next piece comes.
        tail = 0 if chunk.is_last() else min(len(last), len(self.word) - 1)
        while not self.word.startswith(last[len(last) - tail :]):
            tail -= 1
        chunk.replace(self.stars.join([*parts, last[: len(last) - tail]]))
        chunk.hold(tail)
