/* Filters for the Sluice gateway in C: typed calls of the interface in wit/, without stdio, so that the gateway calls the filter directly.
 *
 * A filter is functions, exported by the macros at the end of this file:
 *
 *     static const char *value;
 *
 *     static const char *configure(const sluice_json *config) {
 *         value = sluice_json_text(sluice_json_get(config, "value"));
 *         return value ? NULL : sluice_refuse("value", "expected a text");
 *     }
 *     SLUICE_CONFIGURE(configure)
 *
 *     static sluice_verdict on_request(void) {
 *         sluice_request_set_header("x-stamp", value);
 *         return SLUICE_CONTINUE;
 *     }
 *     SLUICE_ON_REQUEST(on_request)
 *
 * Memory. What calls return lives until the hook returns; what `configure` was given or has got lives as long as the instance. Nothing has to
 * be freed. Texts end with a NUL, which is not part of them; a NULL is an absent value. A text of somebody else's that has a NUL is refused, so nothing
 * can hide behind one; where a peer may well send some, there are bytes.
 *
 * Errors. A call that is refused returns false, NULL or 0, and the refusal stays until the hook returns: the call then counts as failed, its edits
 * are undone, the reason goes to the gateway's log, and the filter's failure policy decides. So there is nothing to check after most calls. A
 * filter that wants to go on looks at `sluice_error()` and calls `sluice_clear_error()`. An absent header is no error.
 */
#ifndef SLUICE_H
#define SLUICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a hook decides. */
typedef int32_t sluice_verdict;
enum { SLUICE_CONTINUE = 0, SLUICE_RESPOND = 1 };

/* Why a call was refused: `error` in wit/types.wit. */
typedef enum {
  SLUICE_OK = -1,
  SLUICE_WRONG_HOOK = 0,
  SLUICE_NOT_GRANTED = 1,
  SLUICE_INVALID = 2,
  SLUICE_TOO_LARGE = 3,
  SLUICE_UNAVAILABLE = 4,
  SLUICE_TIMEOUT = 5,
  SLUICE_OTHER = 6,
} sluice_error_code;

/* The first call of this hook that was refused, and the gateway's reason: `set-header: not granted: grants.write_headers = …`. */
sluice_error_code sluice_error(void);
const char *sluice_error_text(void);
void sluice_clear_error(void);
/* Declares that this call has failed, for a reason of the filter's own. */
void sluice_fail(const char *reason);

typedef struct {
  const uint8_t *data;
  size_t size;
} sluice_bytes;

/* A header field, or a label of a metric. */
typedef struct {
  const char *name;
  const char *value;
} sluice_field;

typedef struct {
  const sluice_field *items;
  size_t count;
} sluice_fields;

typedef struct {
  const char *const *items;
  size_t count;
} sluice_texts;

/* Memory that lives until the hook returns. Never NULL: a filter that needs more than its limit traps. */
void *sluice_alloc(size_t size);
/* The texts up to a NULL, one after the other. */
const char *sluice_concat(const char *first, ...) __attribute__((sentinel));
const char *sluice_decimal(uint64_t value);

/* JSON. Numbers keep their text, so none is changed on its way; `sluice_json_write` writes what was read. */
typedef enum { SLUICE_NULL, SLUICE_FALSE, SLUICE_TRUE, SLUICE_NUMBER, SLUICE_TEXT, SLUICE_ARRAY, SLUICE_OBJECT } sluice_json_type;
typedef struct sluice_json sluice_json;
struct sluice_json {
  sluice_json_type type;
  const char *name;   /* of a member of an object */
  size_t name_length;
  const char *text;   /* of a text or number */
  size_t length;
  sluice_json *first; /* item or member */
  sluice_json *next;  /* item or member beside it */
};
/* NULL for what is not JSON (RFC 8259) in UTF-8, or nested deeper than 128. */
sluice_json *sluice_json_parse(sluice_bytes text);
sluice_bytes sluice_json_write(const sluice_json *value);
/* A member; NULL where there is none, also in what is no object. */
sluice_json *sluice_json_get(const sluice_json *object, const char *name);
/* The text; NULL for what is none, and for one that has a NUL: `text` and `length` have that. */
const char *sluice_json_text(const sluice_json *value);
/* A whole number that an int64_t holds. */
bool sluice_json_integer(const sluice_json *value, int64_t *out);
/* Makes the value a text. */
void sluice_json_set_text(sluice_json *value, const char *text);

/* configure: what it returns for a config that is refused: `path: message`. */
const char *sluice_refuse(const char *path, const char *message);
/* Refuses members that are not among these names, up to a NULL; NULL where there are none. */
const char *sluice_unknown_key(const sluice_json *config, ...) __attribute__((sentinel));
/* Only in configure: asks for bodies of these media types, up to a NULL (at most 16); or of `count` types, none for all. */
bool sluice_want_request_bodies(uint64_t max_bytes, ...) __attribute__((sentinel));
bool sluice_want_response_bodies(uint64_t max_bytes, ...) __attribute__((sentinel));
bool sluice_want_request_bodies_of(uint64_t max_bytes, const char *const *types, size_t count);
bool sluice_want_response_bodies_of(uint64_t max_bytes, const char *const *types, size_t count);
/* The same piece by piece, while they stream. Without a type: all; of events, `text/event-stream` and NDJSON. */
bool sluice_want_request_chunks(const char *type, ...) __attribute__((sentinel));
bool sluice_want_response_chunks(const char *type, ...) __attribute__((sentinel));
bool sluice_want_response_events(const char *type, ...) __attribute__((sentinel));
bool sluice_want_request_chunks_of(const char *const *types, size_t count);
bool sluice_want_response_chunks_of(const char *const *types, size_t count);
bool sluice_want_response_events_of(const char *const *types, size_t count);
/* Only in configure: what this config needs to have been granted, as JSON. */
bool sluice_needs(const char *grants);

/* The request. */
const char *sluice_request_method(void);
const char *sluice_request_path(void);
const char *sluice_request_query(void);
const char *sluice_request_scheme(void);
const char *sluice_request_authority(void);
const char *sluice_request_client_address(void);
const char *sluice_request_id(void);
const char *sluice_request_protocol(void);
/* JSON about the certificate that the client has shown. */
const char *sluice_request_client_certificate(void);
bool sluice_request_set_method(const char *method);
bool sluice_request_set_path(const char *path);
/* NULL removes it. */
bool sluice_request_set_query(const char *query);
/* The first value, and all values in their order. */
const char *sluice_request_header(const char *name);
sluice_texts sluice_request_header_values(const char *name);
sluice_fields sluice_request_headers(void);
bool sluice_request_set_header(const char *name, const char *value);
bool sluice_request_append_header(const char *name, const char *value);
bool sluice_request_remove_header(const char *name);
bool sluice_request_want_body(uint64_t max_bytes);
sluice_bytes sluice_request_body(void);
bool sluice_request_set_body(sluice_bytes body);

/* The response; in a request hook, the answer that SLUICE_RESPOND sends. */
uint16_t sluice_response_status(void);
bool sluice_response_set_status(uint16_t status);
bool sluice_response_set_reason(const char *reason);
/* Who made it. */
typedef enum { SLUICE_FROM_UPSTREAM, SLUICE_FROM_FILTER, SLUICE_FROM_GATEWAY } sluice_origin;
sluice_origin sluice_response_origin(void);
const char *sluice_response_header(const char *name);
sluice_texts sluice_response_header_values(const char *name);
sluice_fields sluice_response_headers(void);
bool sluice_response_set_header(const char *name, const char *value);
bool sluice_response_append_header(const char *name, const char *value);
bool sluice_response_remove_header(const char *name);
bool sluice_response_want_body(uint64_t max_bytes);
sluice_bytes sluice_response_body(void);
bool sluice_response_set_body(sluice_bytes body);
/* Drafts a problem document (RFC 9457); `reason` is for the operator and may be NULL. Returns SLUICE_RESPOND. */
sluice_verdict sluice_problem(uint16_t status, const char *title, const char *detail, const char *reason);

/* Trailers, in SLUICE_ON_RESPONSE_TRAILERS. */
const char *sluice_response_trailer(const char *name);
sluice_fields sluice_response_trailers(void);
bool sluice_response_set_trailer(const char *name, const char *value);
bool sluice_response_remove_trailer(const char *name);

/* The piece of a body, in SLUICE_ON_REQUEST_CHUNK, SLUICE_ON_RESPONSE_CHUNK and SLUICE_ON_RESPONSE_EVENT. It goes on as it is unless something else
 * is said of it. `sluice_chunk` has the whole piece, with what was kept back of the ones before it. */
sluice_bytes sluice_chunk(void);
uint64_t sluice_chunk_length(void);
/* Whether the body ends with it. Each body that comes whole has one such piece, and it may be empty. */
bool sluice_chunk_is_last(void);
/* Sends these bytes in its place; none drop it. */
bool sluice_chunk_replace(sluice_bytes bytes);
/* Keeps its last bytes back: they come again in front of the next piece. A replacement stands for what is in front of them. Not for events. */
bool sluice_chunk_hold(uint64_t tail);
/* Ends the body after it: what the sender still sends is discarded. */
bool sluice_chunk_end(void);
/* Lets the rest of the body go on without further calls. */
bool sluice_chunk_pass_rest(void);
/* The parts of an event, which may have any character, a NUL too. Without one, `data` and what is returned is NULL. A comment and the end of the
 * body have no data, nor has an event whose data is not UTF-8: `sluice_chunk` has it as it was sent. */
sluice_bytes sluice_event_name(void);
const char *sluice_event_id(void);
sluice_bytes sluice_event_data(void);
/* Other data, in UTF-8, and the rest of the event as it is. */
bool sluice_event_set_data(sluice_bytes data);

/* The route. Choices are for SLUICE_SELECT_UPSTREAM. */
const char *sluice_route_name(void);
const char *sluice_route_param(const char *name);
/* The names of the upstreams that it lists. */
sluice_texts sluice_route_upstreams(void);
bool sluice_route_choose_upstream(const char *name);
/* The first of these `host:port` that accepts a connection. */
bool sluice_route_choose_endpoints(const char *const *addresses, size_t count);
bool sluice_route_hash_key(const char *key);
bool sluice_route_no_retry(void);
typedef struct {
  const char *upstream;
  const char *address;
  uint32_t weight;
  bool healthy;
  uint32_t active;     /* requests with it now */
  uint64_t latency_us; /* to the first byte, an average; 0 when not known */
} sluice_endpoint;
typedef struct {
  const sluice_endpoint *items;
  size_t count;
} sluice_endpoints;
sluice_endpoints sluice_route_endpoints(void);
/* In SLUICE_ON_COMPLETE: the exchange as JSON, with the members of the access log. */
const char *sluice_route_summary(void);

/* Facts for the filters after this one. */
const char *sluice_context_consumer(void);
bool sluice_context_set_consumer(const char *name);
/* A text, or JSON as a text; NULL for what is neither. */
const char *sluice_context_text(const char *key);
/* False for what is not of this kind, and for nothing. */
bool sluice_context_integer(const char *key, int64_t *out);
bool sluice_context_boolean(const char *key, bool *out);
/* The name of the filter that has set it. */
const char *sluice_context_writer(const char *key);
bool sluice_context_set_text(const char *key, const char *text);
bool sluice_context_set_integer(const char *key, int64_t value);
bool sluice_context_set_boolean(const char *key, bool value);
bool sluice_context_set_json(const char *key, const char *json);

/* What this filter keeps from one hook of the exchange to the next. */
bool sluice_state_get(sluice_bytes *out);
bool sluice_state_set(sluice_bytes value);

/* Services. `size` of an absent value is 0 and its `data` NULL. */
typedef enum { SLUICE_TRACE, SLUICE_DEBUG, SLUICE_INFO, SLUICE_WARN, SLUICE_ERROR } sluice_level;
void sluice_log(sluice_level level, const char *message);
uint64_t sluice_now_us(void);
uint64_t sluice_monotonic_ns(void);
sluice_bytes sluice_random(uint32_t length);
const char *sluice_secret(const char *name);
/* Adds to a counter; labels up to `count`. */
bool sluice_count(const char *name, const sluice_field *labels, size_t count, uint64_t delta);
bool sluice_gauge(const char *name, const sluice_field *labels, size_t count, double value);
bool sluice_observe(const char *name, const sluice_field *labels, size_t count, double value);
sluice_bytes sluice_kv_get(const char *space, const char *key);
/* `ttl_ms` 0: until it is deleted. */
bool sluice_kv_set(const char *space, const char *key, sluice_bytes value, uint64_t ttl_ms);
bool sluice_kv_delete(const char *space, const char *key);

/* The value, or a reservation, so that one caller of many makes it: it should set the value. */
typedef enum { SLUICE_FOUND, SLUICE_RESERVED, SLUICE_PENDING } sluice_reservation;
sluice_reservation sluice_kv_get_or_reserve(const char *space, const char *key, uint64_t ttl_ms, sluice_bytes *value);
/* Sets a value if the present one is `expected` (NULL: if there is none), and answers whether it did. */
bool sluice_kv_compare_and_swap(const char *space, const char *key, const sluice_bytes *expected, sluice_bytes value, uint64_t ttl_ms);
/* Waits as long as another caller holds the reservation. A filter that calls this, `sluice_http_send` or `sluice_authenticate_password` is called on a
 * fiber, which costs about 0.3 us a call. */
sluice_bytes sluice_kv_wait(const char *space, const char *key, uint32_t timeout_ms);

/* Limits of rates. Those with the same key, algorithm, amount and window share a counter. At most 16 in a call. */
typedef enum { SLUICE_TOKEN_BUCKET, SLUICE_LEAKY_BUCKET, SLUICE_FIXED_WINDOW, SLUICE_SLIDING_WINDOW } sluice_algorithm;
typedef struct {
  const char *key; /* at most 1,024 bytes */
  sluice_algorithm algorithm;
  uint64_t amount;
  uint64_t window_ms;
  uint64_t burst;
} sluice_limit;
typedef struct {
  bool allowed;
  uint64_t remaining;
  uint64_t reset_ms;
  uint64_t retry_after_ms;
} sluice_standing;
/* Takes `cost` from every limit, or from none if one of them would not allow it; 0 only looks. One standing for each limit. NULL for a refusal. */
const sluice_standing *sluice_limiter_take(const sluice_limit *limits, size_t count, uint64_t cost);
/* Limits of requests at the same time. */
typedef struct {
  const char *key;
  uint32_t amount;
} sluice_place_limit;
typedef struct {
  int32_t full; /* the first place limit whose places are all taken; -1 for none */
  const sluice_standing *standings; /* NULL if one is full */
} sluice_admission;
/* Takes a place of each, until the exchange has ended, and `cost` from each limit; or nothing. */
bool sluice_concurrency_enter(const sluice_place_limit *places, size_t place_count, const sluice_limit *limits, size_t count, uint64_t cost,
                              sluice_admission *out);

/* Calls to other services: granted origins (`https://auth.example/check`), and granted upstreams (`upstream://users/profile`). */
typedef struct {
  const char *method; /* NULL: GET */
  const char *url;
  sluice_fields headers;
  sluice_bytes body;
} sluice_outgoing;
typedef struct {
  uint16_t status; /* 0 where the request has failed */
  sluice_fields headers;
  sluice_bytes body;
  sluice_error_code error; /* SLUICE_OK, or what befell this request: it does not fail the hook */
  const char *error_text;
} sluice_incoming;
/* Sends them at the same time, at most 16, and waits for all. NULL where the call was refused. */
const sluice_incoming *sluice_http_send(const sluice_outgoing *requests, size_t count, uint32_t timeout_ms);

/* Consumers: the caller becomes the one with this credential, whose name is returned; NULL for none. */
const char *sluice_authenticate(const char *kind, const char *credential);
const char *sluice_authenticate_password(const char *username, sluice_bytes password);
/* The same for what was verified before, without a wait. */
const char *sluice_recall_password(const char *username, sluice_bytes password);
/* The filter itself has found out that the caller is this consumer. */
bool sluice_vouch(const char *name, const char *method);
bool sluice_consumer_known(void);
const char *sluice_consumer_plan(void);
const char *sluice_consumer_label(const char *name);
sluice_fields sluice_consumer_labels(void);
const char *sluice_consumer_method(void);

/* Cryptography at native speed: `sha-1`, `sha-256`, `sha-384`, `sha-512`. */
sluice_bytes sluice_hash(const char *algorithm, sluice_bytes data);
sluice_bytes sluice_hmac(const char *algorithm, sluice_bytes key, sluice_bytes data);
bool sluice_equal(sluice_bytes a, sluice_bytes b);

/* What the cache of the route should know. */
bool sluice_cache_set_key_part(const char *name, const char *value);
bool sluice_cache_add_tag(const char *tag);
bool sluice_cache_no_store(void);
const char *sluice_cache_status(void);

/* The exports. What stands in a macro is the filter's function. */
const char *sluice_run_configure(const char *(*configure)(const sluice_json *), const char *text, size_t length, void *out);
sluice_verdict sluice_run(sluice_verdict (*hook)(void));
void sluice_run_void(void (*hook)(void));
#define SLUICE_EXPORT(name) __attribute__((export_name("sluice:filter/" name "@0.1.1#" name)))
#define SLUICE_CONFIGURE(function)                                                                                       \
  SLUICE_EXPORT("configure") const void *sluice_export_configure(const char *text, size_t length) {                      \
    static struct { uint8_t refused; const char *message; size_t length; } answer;                                       \
    sluice_run_configure(function, text, length, &answer);                                                               \
    return &answer;                                                                                                      \
  }
/* JSON about the filter: `describe` in wit/hooks.wit. */
#define SLUICE_DESCRIBE(json)                                                                                            \
  SLUICE_EXPORT("describe") const void *sluice_export_describe(void) {                                                   \
    static const struct { const char *text; size_t length; } answer = {json, sizeof(json) - 1};                          \
    return &answer;                                                                                                      \
  }
#define SLUICE_HOOK(name, c_name, function)                                                                              \
  SLUICE_EXPORT(name) sluice_verdict sluice_export_##c_name(void) { return sluice_run(function); }
#define SLUICE_VOID_HOOK(name, c_name, function)                                                                         \
  SLUICE_EXPORT(name) void sluice_export_##c_name(void) { sluice_run_void(function); }
#define SLUICE_ON_REQUEST(function) SLUICE_HOOK("on-request", on_request, function)
#define SLUICE_ON_REQUEST_BODY(function) SLUICE_HOOK("on-request-body", on_request_body, function)
#define SLUICE_SELECT_UPSTREAM(function) SLUICE_VOID_HOOK("select-upstream", select_upstream, function)
#define SLUICE_ON_RESPONSE(function) SLUICE_HOOK("on-response", on_response, function)
#define SLUICE_ON_RESPONSE_BODY(function) SLUICE_HOOK("on-response-body", on_response_body, function)
#define SLUICE_ON_REQUEST_CHUNK(function) SLUICE_VOID_HOOK("on-request-chunk", on_request_chunk, function)
#define SLUICE_ON_RESPONSE_CHUNK(function) SLUICE_VOID_HOOK("on-response-chunk", on_response_chunk, function)
#define SLUICE_ON_RESPONSE_EVENT(function) SLUICE_VOID_HOOK("on-response-event", on_response_event, function)
#define SLUICE_ON_RESPONSE_TRAILERS(function) SLUICE_VOID_HOOK("on-response-trailers", on_response_trailers, function)
#define SLUICE_ON_COMPLETE(function) SLUICE_VOID_HOOK("on-complete", on_complete, function)

#ifdef __cplusplus
}
#endif
#endif
