/* The calls of sluice.h that not every filter needs: pieces of bodies, choices, limits, other services, consumers. */
#include "sluice_calls.h"

#include <stdarg.h>

static const text *texts(const char *const *from, size_t count) {
  text *made = take(count * sizeof(text), 4);
  for (size_t i = 0; i < count; i++) made[i] = (text){ARGS(from[i])};
  return made;
}

/* Messages. */

GET_TEXT(request_protocol, "request", "protocol")
GET_OPTION(request_client_certificate, "request", "client-certificate")
GET_OPTION(cache_status, "response", "cache-status")
GET_OPTION_BY(response_trailer, "response", "trailer")
SET_TEXT_BY(response_set_trailer, "response", "set-trailer")
SET_TEXT(response_remove_trailer, "response", "remove-trailer")

GET_FIELDS(response_trailers, "response", "trailers")

IMPORT("response", "origin") void import_origin(result *);
sluice_origin sluice_response_origin(void) {
  result got;
  import_origin(&got);
  return good("origin", &got) ? (sluice_origin)got.as.u8 : SLUICE_FROM_UPSTREAM;
}

IMPORT("request", "set-query") void import_set_query(uint32_t, const char *, size_t, result *);
bool sluice_request_set_query(const char *query) {
  result got;
  import_set_query(query != NULL, query, query ? strlen(query) : 0, &got);
  return good("set-query", &got);
}

/* Pieces. */

IMPORT("chunk", "length") void import_chunk_length(result *);
uint64_t sluice_chunk_length(void) {
  result got;
  import_chunk_length(&got);
  return good("chunk length", &got) ? got.as.u64 : 0;
}

IMPORT("chunk", "read") void import_chunk_read(uint64_t, uint64_t, result *);
sluice_bytes sluice_chunk(void) {
  result got;
  import_chunk_read(0, UINT64_MAX, &got);
  return bytes("chunk read", &got);
}

IMPORT("chunk", "replace") void import_chunk_replace(const uint8_t *, size_t, result *);
bool sluice_chunk_replace(sluice_bytes with) {
  result got;
  import_chunk_replace(with.data, with.size, &got);
  return good("chunk replace", &got);
}

GET_BOOL(chunk_is_last, "chunk", "is-last")
SET_NUMBER(chunk_hold, "chunk", "hold", uint64_t)
DO(chunk_end, "chunk", "end")
DO(chunk_pass_rest, "chunk", "pass-rest")
GET_OPTION(event_id, "chunk", "event-id")

/* What is absent has no place, and what is empty has one. */
static sluice_bytes option_bytes(const char *call, const result *got) {
  if (!good(call, got) || !got->as.option.some) return (sluice_bytes){NULL, 0};
  const char *at = empty_if_null(got->as.option.value.ptr, got->as.option.value.len);
  return (sluice_bytes){(const uint8_t *)at, got->as.option.value.len};
}

IMPORT("chunk", "event-name") void import_event_name(result *);
sluice_bytes sluice_event_name(void) {
  result got;
  import_event_name(&got);
  return option_bytes("event-name", &got);
}

IMPORT("chunk", "event-data") void import_event_data(result *);
sluice_bytes sluice_event_data(void) {
  result got;
  import_event_data(&got);
  return option_bytes("event-data", &got);
}

IMPORT("chunk", "set-event-data") void import_event_set_data(const uint8_t *, size_t, result *);
bool sluice_event_set_data(sluice_bytes data) {
  result got;
  import_event_set_data(data.data, data.size, &got);
  return good("set-event-data", &got);
}

#define WANT_PIECES(c, name)                                                             \
  IMPORT("interest", name) void import_##c(const text *, size_t, result *);              \
  bool sluice_##c##_of(const char *const *types, size_t count) {                         \
    result got;                                                                          \
    import_##c(texts(types, count), count, &got);                                        \
    return good(name, &got);                                                             \
  }                                                                                      \
  bool sluice_##c(const char *type, ...) {                                               \
    const char *types[16];                                                               \
    size_t count = 0;                                                                    \
    va_list list;                                                                        \
    va_start(list, type);                                                                \
    for (; count < 16 && type; type = va_arg(list, const char *)) types[count++] = type; \
    va_end(list);                                                                        \
    return sluice_##c##_of(types, count);                                                \
  }
WANT_PIECES(want_request_chunks, "request-chunks")
WANT_PIECES(want_response_chunks, "response-chunks")
WANT_PIECES(want_response_events, "response-events")

/* The route. */

IMPORT("route", "upstreams") void import_upstreams(result *);
sluice_texts sluice_route_upstreams(void) {
  result got;
  import_upstreams(&got);
  return texts_of("upstreams", &got);
}

SET_TEXT(route_choose_upstream, "route", "choose-upstream")
SET_TEXT(route_hash_key, "route", "hash-key")
DO(route_no_retry, "route", "no-retry")
GET_TEXT(route_summary, "route", "summary")

IMPORT("route", "choose-endpoints") void import_choose_endpoints(const text *, size_t, result *);
bool sluice_route_choose_endpoints(const char *const *addresses, size_t count) {
  result got;
  import_choose_endpoints(texts(addresses, count), count, &got);
  return good("choose-endpoints", &got);
}

IMPORT("route", "endpoints") void import_endpoints(result *);
sluice_endpoints sluice_route_endpoints(void) {
  typedef struct {
    text upstream, address;
    uint32_t weight;
    uint8_t healthy;
    uint32_t active;
    uint64_t latency_us;
  } record;
  _Static_assert(sizeof(record) == 40, "the layout of the canonical ABI");
  result got;
  import_endpoints(&got);
  if (!good("endpoints", &got)) return (sluice_endpoints){NULL, 0};
  const record *from = (const record *)(const void *)got.as.list.ptr;
  sluice_endpoint *made = take(got.as.list.len * sizeof *made, 8);
  for (size_t i = 0; i < got.as.list.len; i++)
    made[i] = (sluice_endpoint){from[i].upstream.ptr, from[i].address.ptr, from[i].weight, from[i].healthy, from[i].active, from[i].latency_us};
  return (sluice_endpoints){made, got.as.list.len};
}

/* Limits. A standing of the gateway is one of sluice.h. */

typedef struct {
  text key;
  uint8_t algorithm;
  uint64_t amount, window_ms, burst;
} limit;
_Static_assert(sizeof(limit) == 40 && sizeof(sluice_standing) == 32, "the layout of the canonical ABI");

static const limit *limits_of(const sluice_limit *from, size_t count) {
  limit *made = take(count * sizeof *made, 8);
  for (size_t i = 0; i < count; i++)
    made[i] = (limit){{ARGS(from[i].key)}, (uint8_t)from[i].algorithm, from[i].amount, from[i].window_ms, from[i].burst};
  return made;
}

IMPORT("limiter", "take") void import_limiter_take(const limit *, size_t, uint64_t, result *);
const sluice_standing *sluice_limiter_take(const sluice_limit *limits, size_t count, uint64_t cost) {
  result got;
  import_limiter_take(limits_of(limits, count), count, cost, &got);
  return good("limiter take", &got) ? (const sluice_standing *)(const void *)got.as.list.ptr : NULL;
}

typedef struct {
  text key;
  uint32_t amount;
} place_limit;

IMPORT("concurrency", "enter")
void import_enter(const place_limit *, size_t, const limit *, size_t, uint64_t, result *);
bool sluice_concurrency_enter(const sluice_place_limit *places, size_t place_count, const sluice_limit *limits, size_t count, uint64_t cost,
                              sluice_admission *out) {
  struct { uint32_t is_full, full; text standings; } admission;
  place_limit *made = take(place_count * sizeof *made, 4);
  for (size_t i = 0; i < place_count; i++) made[i] = (place_limit){{ARGS(places[i].key)}, places[i].amount};
  result got;
  import_enter(made, place_count, limits_of(limits, count), count, cost, &got);
  if (!good("concurrency enter", &got)) return false;
  memcpy(&admission, (const uint8_t *)&got + 8, sizeof admission);
  bool is_full = admission.is_full & 1; /* one byte, and three that say nothing */
  out->full = is_full ? (int32_t)admission.full : -1;
  out->standings = is_full ? NULL : (const sluice_standing *)(const void *)admission.standings.ptr;
  return true;
}

/* Stores. */

IMPORT("kv", "get-or-reserve") void import_kv_reserve(const char *, size_t, const char *, size_t, uint64_t, result *);
sluice_reservation sluice_kv_get_or_reserve(const char *space, const char *key, uint64_t ttl_ms, sluice_bytes *value) {
  result got;
  import_kv_reserve(ARGS(space), ARGS(key), ttl_ms, &got);
  if (!good("kv get-or-reserve", &got)) return SLUICE_PENDING;
  /* The case stands where an option says whether there is something, and the value is in the same place. */
  if (got.as.option.some == SLUICE_FOUND) *value = (sluice_bytes){(const uint8_t *)got.as.option.value.ptr, got.as.option.value.len};
  return (sluice_reservation)got.as.option.some;
}

IMPORT("kv", "compare-and-swap")
void import_kv_swap(const char *, size_t, const char *, size_t, uint32_t, const uint8_t *, size_t, const uint8_t *, size_t, uint32_t, uint64_t,
                    result *);
bool sluice_kv_compare_and_swap(const char *space, const char *key, const sluice_bytes *expected, sluice_bytes value, uint64_t ttl_ms) {
  sluice_bytes before = expected ? *expected : (sluice_bytes){NULL, 0};
  result got;
  import_kv_swap(ARGS(space), ARGS(key), expected != NULL, before.data, before.size, value.data, value.size, ttl_ms != 0, ttl_ms, &got);
  return good("kv compare-and-swap", &got) && got.as.u8;
}

IMPORT("kv-wait", "wait") void import_kv_wait(const char *, size_t, const char *, size_t, uint32_t, result *);
sluice_bytes sluice_kv_wait(const char *space, const char *key, uint32_t timeout_ms) {
  result got;
  import_kv_wait(ARGS(space), ARGS(key), timeout_ms, &got);
  return option_bytes("kv-wait wait", &got);
}

/* Other services. */

IMPORT("http", "send") void import_http_send(const void *, size_t, uint32_t, result *);
const sluice_incoming *sluice_http_send(const sluice_outgoing *requests, size_t count, uint32_t timeout_ms) {
  struct { text method, url, headers; sluice_bytes body; } *made = take(count * sizeof *made, 4);
  for (size_t i = 0; i < count; i++) {
    const sluice_outgoing *from = &requests[i];
    text *pairs = take(2 * from->headers.count * sizeof(text), 4);
    for (size_t j = 0; j < from->headers.count; j++) {
      pairs[2 * j] = (text){ARGS(from->headers.items[j].name)};
      pairs[2 * j + 1] = (text){ARGS(from->headers.items[j].value)};
    }
    const char *method = from->method ? from->method : "GET";
    made[i].method = (text){ARGS(method)};
    made[i].url = (text){ARGS(from->url)};
    made[i].headers = (text){(const char *)pairs, from->headers.count};
    made[i].body = from->body;
  }
  result got;
  import_http_send(made, count, timeout_ms, &got);
  if (!good("http send", &got)) return NULL;
  /* Each answer has the room of a result with an incoming, 32 bytes; a refusal lies in it as in any result. */
  typedef struct { uint64_t refused; uint16_t status; text headers, body; } answer;
  _Static_assert(sizeof(answer) == 32, "the layout of the canonical ABI");
  const answer *from = (const answer *)(const void *)got.as.list.ptr;
  sluice_incoming *answers = take(count * sizeof *answers, 4);
  for (size_t i = 0; i < count; i++) {
    result one = {.refused = 0};
    if (i < got.as.list.len) memcpy(&one, &from[i], sizeof one);
    if (i >= got.as.list.len || one.refused) {
      sluice_error_code code = one.refused && one.as.error.code <= SLUICE_OTHER ? (sluice_error_code)one.as.error.code : SLUICE_OTHER;
      answers[i] = (sluice_incoming){.error = code, .error_text = one.refused ? sluice_reason("http send", &one) : "http send: no answer"};
      continue;
    }
    result headers = {.as.list = from[i].headers};
    answers[i] = (sluice_incoming){.status = from[i].status,
                                   .headers = fields("http send", &headers),
                                   .body = {(const uint8_t *)from[i].body.ptr, from[i].body.len},
                                   .error = SLUICE_OK};
  }
  return answers;
}

/* Consumers. */

IMPORT("consumers", "authenticate") void import_authenticate(const char *, size_t, const char *, size_t, result *);
const char *sluice_authenticate(const char *kind, const char *credential) {
  result got;
  import_authenticate(ARGS(kind), ARGS(credential), &got);
  return option_text("authenticate", &got);
}

#define PASSWORD(c, interface, name)                                                     \
  IMPORT(interface, name) void import_##c(const char *, size_t, const uint8_t *, size_t, result *); \
  const char *sluice_##c(const char *username, sluice_bytes password) {                  \
    result got;                                                                          \
    import_##c(ARGS(username), password.data, password.size, &got);                      \
    return option_text(name, &got);                                                      \
  }
PASSWORD(authenticate_password, "passwords", "authenticate")
PASSWORD(recall_password, "consumers", "recall-password")
GET_BOOL(consumer_known, "consumers", "known")
GET_OPTION(consumer_plan, "consumers", "plan")
GET_OPTION_BY(consumer_label, "consumers", "label")
GET_FIELDS(consumer_labels, "consumers", "labels")
GET_OPTION_BY(context_writer, "context", "writer")
GET_OPTION(consumer_method, "consumers", "method")

IMPORT("consumers", "vouch") void import_vouch(const char *, size_t, const char *, size_t, result *);
bool sluice_vouch(const char *name, const char *method) {
  result got;
  import_vouch(ARGS(name), ARGS(method), &got);
  return good("vouch", &got) && got.as.u8;
}

/* Cryptography. */

IMPORT("crypto", "hash") void import_hash(const char *, size_t, const uint8_t *, size_t, result *);
sluice_bytes sluice_hash(const char *algorithm, sluice_bytes data) {
  result got;
  import_hash(ARGS(algorithm), data.data, data.size, &got);
  return bytes("hash", &got);
}

IMPORT("crypto", "hmac") void import_hmac(const char *, size_t, const uint8_t *, size_t, const uint8_t *, size_t, result *);
sluice_bytes sluice_hmac(const char *algorithm, sluice_bytes key, sluice_bytes data) {
  result got;
  import_hmac(ARGS(algorithm), key.data, key.size, data.data, data.size, &got);
  return bytes("hmac", &got);
}

IMPORT("crypto", "equal") void import_equal(const uint8_t *, size_t, const uint8_t *, size_t, result *);
bool sluice_equal(sluice_bytes a, sluice_bytes b) {
  result got;
  import_equal(a.data, a.size, b.data, b.size, &got);
  return good("equal", &got) && got.as.u8;
}

/* The cache. */

SET_TEXT_BY(cache_set_key_part, "cache", "set-key-part")
SET_TEXT(cache_add_tag, "cache", "add-tag")
DO(cache_no_store, "cache", "no-store")
