/* Hides a word in texts and in server-sent events while they stream. */
#include <sluice.h>
#include <string.h>

static const char *word;
static size_t length;

static const char *configure(const sluice_json *config) {
  word = sluice_json_text(sluice_json_get(config, "word"));
  if (!word || !*word) return sluice_refuse("word", "expected a word");
  length = strlen(word);
  sluice_want_request_chunks("text/plain", NULL);
  sluice_want_response_chunks("text/plain", NULL);
  sluice_want_response_events("text/event-stream", NULL);
  return sluice_unknown_key(config, "word", NULL);
}
SLUICE_CONFIGURE(configure)

/* Masks the word wherever it is, and answers where the last one ends. */
static size_t hide(char *text, size_t size) {
  size_t end = 0;
  for (size_t at = 0; at + length <= size;) {
    if (memcmp(text + at, word, length) != 0) {
      at++;
      continue;
    }
    memset(text + at, '*', length);
    end = at += length;
  }
  return end;
}

static char *copy(const void *from, size_t size) {
  char *made = sluice_alloc(size + 1);
  memcpy(made, from, size);
  made[size] = 0;
  return made;
}

/* The network may have split the word: what may be its beginning is kept back until the next piece comes. */
static void on_chunk(void) {
  sluice_bytes piece = sluice_chunk();
  char *text = copy(piece.data, piece.size);
  size_t rest = piece.size - hide(text, piece.size), tail = 0;
  if (!sluice_chunk_is_last()) tail = rest < length ? rest : length - 1;
  sluice_chunk_hold(tail);
  sluice_chunk_replace((sluice_bytes){(const uint8_t *)text, piece.size - tail});
}
SLUICE_ON_REQUEST_CHUNK(on_chunk)
SLUICE_ON_RESPONSE_CHUNK(on_chunk)

/* Data that is not UTF-8 is no data to the gateway: then the word is hidden wherever it is in the event. */
static void on_event(void) {
  sluice_bytes data = sluice_event_data(), seen = data.data ? data : sluice_chunk();
  char *text = copy(seen.data, seen.size);
  if (!hide(text, seen.size)) return;
  sluice_bytes masked = {(const uint8_t *)text, seen.size};
  if (data.data) sluice_event_set_data(masked);
  else sluice_chunk_replace(masked);
}
SLUICE_ON_RESPONSE_EVENT(on_event)
