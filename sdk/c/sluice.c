/* The calls of sluice.h: the canonical ABI of the interface in wit/, and the memory of a hook. */
#include "sluice_calls.h"

#include <stdarg.h>
#include <stdlib.h>

/* Memory: chunks that are kept, and a place in them that goes back when a hook returns. */

typedef struct chunk chunk;
struct chunk {
  chunk *next;
  size_t size;
  uint8_t data[];
};
static chunk *first, *current;
static size_t used;
/* Where a hook starts: behind what `configure` has kept. */
static chunk *kept_chunk;
static size_t kept_used;

void *take(size_t size, size_t align) {
  for (;;) {
    if (current) {
      size_t at = ((uintptr_t)current->data + used + align - 1) / align * align - (uintptr_t)current->data;
      if (at <= current->size && size <= current->size - at) {
        used = at + size;
        return current->data + at;
      }
    }
    chunk *after = current ? current->next : first;
    if (!after || after->size < size + align) {
      size_t least = size + align > 16384 ? size + align : 16384;
      chunk *more = malloc(sizeof(chunk) + least);
      if (!more) __builtin_trap();
      more->next = after;
      more->size = least;
      if (current) current->next = more;
      else first = more;
      after = more;
    }
    current = after;
    used = 0;
  }
}

static void reset(void) {
  current = kept_chunk ? kept_chunk : first;
  used = kept_used;
}

void *sluice_alloc(size_t size) { return take(size, 8); }

/* Where the gateway puts what it returns. One byte more, so that texts end with a NUL. */
__attribute__((export_name("cabi_realloc"))) void *cabi_realloc(void *old, size_t old_size, size_t align, size_t size) {
  uint8_t *made = take(size + 1, align);
  if (old) memcpy(made, old, old_size < size ? old_size : size);
  made[size] = 0;
  return made;
}

const char *sluice_concat(const char *text, ...) {
  va_list list;
  size_t length = strlen(text);
  va_start(list, text);
  for (const char *more; (more = va_arg(list, const char *));) length += strlen(more);
  va_end(list);
  char *made = take(length + 1, 1), *end = made + strlen(text);
  memcpy(made, text, strlen(text));
  va_start(list, text);
  for (const char *more; (more = va_arg(list, const char *)); end += strlen(more)) memcpy(end, more, strlen(more));
  va_end(list);
  *end = 0;
  return made;
}

/* Errors. */

static sluice_error_code error_code = SLUICE_OK;
static const char *error_text;

const char *sluice_decimal(uint64_t value) {
  char *made = take(21, 1), *at = made + 20;
  *at = 0;
  do *--at = (char)('0' + value % 10);
  while (value /= 10);
  return at;
}

static sluice_error_code code_of(const result *got) {
  unsigned code = got->as.error.code;
  return code <= SLUICE_OTHER ? (sluice_error_code)code : SLUICE_OTHER;
}

const char *sluice_reason(const char *call, const result *got) {
  static const char *const names[] = {"wrong hook", "not granted", "invalid", "too large", "unavailable", "timeout", "other"};
  sluice_error_code code = code_of(got);
  const char *why = NULL;
  if (code == SLUICE_TOO_LARGE) why = sluice_concat("the limit is ", sluice_decimal(got->as.error.of.limit), NULL);
  else if (code != SLUICE_WRONG_HOOK && code != SLUICE_TIMEOUT) why = got->as.error.of.why.ptr;
  return why ? sluice_concat(call, ": ", names[code], ": ", why, NULL) : sluice_concat(call, ": ", names[code], NULL);
}

bool good(const char *call, const result *got) {
  if (!got->refused) return true;
  sluice_refused(code_of(got), sluice_reason(call, got));
  return false;
}

void sluice_refused(sluice_error_code code, const char *why) {
  if (error_code != SLUICE_OK) return;
  error_code = code;
  error_text = why;
}

sluice_error_code sluice_error(void) { return error_code; }
const char *sluice_error_text(void) { return error_code == SLUICE_OK ? NULL : error_text; }
void sluice_clear_error(void) { error_code = SLUICE_OK; }

/* Calls. */

#define MESSAGE(message)                                                                 \
  GET_OPTION_BY(message##_header, #message, "header")                                    \
  IMPORT(#message, "header-values") void import_##message##_header_values(const char *, size_t, result *); \
  sluice_texts sluice_##message##_header_values(const char *name) {                      \
    result got;                                                                          \
    import_##message##_header_values(ARGS(name), &got);                                  \
    return texts_of("header-values", &got);                                              \
  }                                                                                      \
  GET_FIELDS(message##_headers, #message, "headers")                                     \
  SET_TEXT_BY(message##_set_header, #message, "set-header")                              \
  SET_TEXT_BY(message##_append_header, #message, "append-header")                        \
  SET_TEXT(message##_remove_header, #message, "remove-header")                           \
  SET_NUMBER(message##_want_body, #message, "want-body", uint64_t)                       \
  IMPORT(#message, "body-length") void import_##message##_body_length(result *);         \
  IMPORT(#message, "body") void import_##message##_body(uint64_t, uint64_t, result *);   \
  IMPORT(#message, "set-body") void import_##message##_set_body(const uint8_t *, size_t, result *); \
  sluice_bytes sluice_##message##_body(void) {                                           \
    result got;                                                                          \
    import_##message##_body_length(&got);                                                \
    if (!good("body-length", &got)) return (sluice_bytes){NULL, 0};                      \
    import_##message##_body(0, got.as.u64, &got);                                        \
    return bytes("body", &got);                                                          \
  }                                                                                      \
  bool sluice_##message##_set_body(sluice_bytes body) {                                  \
    result got;                                                                          \
    import_##message##_set_body(body.data, body.size, &got);                             \
    return good("set-body", &got);                                                       \
  }

sluice_bytes bytes(const char *call, const result *got) {
  if (!good(call, got)) return (sluice_bytes){NULL, 0};
  return (sluice_bytes){(const uint8_t *)got->as.list.ptr, got->as.list.len};
}

const char *text_of(const char *call, const char *value, size_t length) {
  if (length == 0) return "";
  if (!memchr(value, 0, length)) return value;
  sluice_refused(SLUICE_INVALID, sluice_concat(call, ": invalid: the text has a NUL", NULL));
  return NULL;
}

const char *option_text(const char *call, const result *got) {
  if (!good(call, got) || !got->as.option.some) return NULL;
  return text_of(call, got->as.option.value.ptr, got->as.option.value.len);
}

/* The gateway's list has pointers and lengths; the filter's has texts with a NUL. */
sluice_fields fields(const char *call, const result *got) {
  if (!good(call, got)) return (sluice_fields){NULL, 0};
  const text *from = (const text *)(const void *)got->as.list.ptr;
  size_t count = got->as.list.len;
  sluice_field *made = take(count * sizeof(sluice_field), 4);
  for (size_t i = 0; i < count; i++)
    made[i] = (sluice_field){empty_if_null(from[2 * i].ptr, from[2 * i].len), empty_if_null(from[2 * i + 1].ptr, from[2 * i + 1].len)};
  return (sluice_fields){made, count};
}

sluice_texts texts_of(const char *call, const result *got) {
  if (!good(call, got)) return (sluice_texts){NULL, 0};
  const text *from = (const text *)(const void *)got->as.list.ptr;
  size_t count = got->as.list.len;
  const char **made = take(count * sizeof *made, 4);
  for (size_t i = 0; i < count; i++) made[i] = empty_if_null(from[i].ptr, from[i].len);
  return (sluice_texts){made, count};
}

static const text *labels(const sluice_field *from, size_t count) {
  text *made = take(2 * count * sizeof(text), 4);
  for (size_t i = 0; i < count; i++) {
    made[2 * i] = (text){ARGS(from[i].name)};
    made[2 * i + 1] = (text){ARGS(from[i].value)};
  }
  return made;
}

GET_TEXT(request_method, "request", "method")
GET_TEXT(request_path, "request", "path")
GET_OPTION(request_query, "request", "query")
GET_TEXT(request_scheme, "request", "scheme")
GET_TEXT(request_authority, "request", "authority")
GET_TEXT(request_client_address, "request", "client-address")
GET_TEXT(request_id, "request", "id")
SET_TEXT(request_set_method, "request", "set-method")
SET_TEXT(request_set_path, "request", "set-path")
MESSAGE(request)
MESSAGE(response)
SET_TEXT(response_set_reason, "response", "set-reason")
GET_TEXT(route_name, "route", "name")
GET_OPTION_BY(route_param, "route", "param")
GET_OPTION(context_consumer, "context", "consumer")
SET_TEXT(context_set_consumer, "context", "set-consumer")
SET_TEXT(needs, "interest", "needs")

IMPORT("response", "status") void import_status(result *);
uint16_t sluice_response_status(void) {
  result got;
  import_status(&got);
  return good("status", &got) ? got.as.u16 : 0;
}

IMPORT("response", "set-status") void import_set_status(uint32_t, result *);
bool sluice_response_set_status(uint16_t status) {
  result got;
  import_set_status(status, &got);
  return good("set-status", &got);
}

sluice_verdict sluice_problem(uint16_t status, const char *title, const char *detail, const char *reason) {
  sluice_json *document = sluice_alloc(sizeof *document), **next = &document->first;
  const struct { const char *name, *value; } members[] = {
      {"type", "about:blank"}, {"title", title}, {"status", sluice_decimal(status)}, {"detail", detail}, {"request_id", sluice_request_id()}};
  *document = (sluice_json){.type = SLUICE_OBJECT};
  for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
    if (!members[i].value) continue;
    sluice_json *member = sluice_alloc(sizeof *member);
    *member = (sluice_json){.name = members[i].name, .name_length = strlen(members[i].name)};
    sluice_json_set_text(member, members[i].value);
    if (i == 2) member->type = SLUICE_NUMBER;
    *next = member;
    next = &member->next;
  }
  sluice_response_set_status(status);
  sluice_response_set_header("content-type", "application/problem+json");
  sluice_response_set_body(sluice_json_write(document));
  if (reason) sluice_response_set_reason(reason);
  return SLUICE_RESPOND;
}

IMPORT("context", "get") void import_context_get(const char *, size_t, uint64_t *);
/* The kind of a value, which is then at 24; -1 for none. */
static int context_get(const char *key, uint64_t room[4]) {
  import_context_get(ARGS(key), room); /* discriminant, then an error or option<value>, at 8 */
  result got;
  memcpy(&got, room, sizeof got);
  return good("get", &got) && *(uint8_t *)&room[1] ? *(uint8_t *)&room[2] : -1;
}

const char *sluice_context_text(const char *key) {
  uint64_t room[4];
  int kind = context_get(key, room);
  text found;
  memcpy(&found, &room[3], sizeof found);
  return kind == 0 || kind == 5 ? text_of("get", found.ptr, found.len) : NULL;
}

bool sluice_context_integer(const char *key, int64_t *out) {
  uint64_t room[4];
  if (context_get(key, room) != 1) return false;
  *out = (int64_t)room[3];
  return true;
}

bool sluice_context_boolean(const char *key, bool *out) {
  uint64_t room[4];
  if (context_get(key, room) != 3) return false;
  *out = *(uint8_t *)&room[3];
  return true;
}

IMPORT("context", "set") void import_context_set(const char *, size_t, uint32_t, uint64_t, size_t, result *);
static bool context_set(const char *key, uint32_t kind, uint64_t low, size_t high) {
  result got;
  import_context_set(ARGS(key), kind, low, high, &got);
  return good("set", &got);
}
bool sluice_context_set_text(const char *key, const char *value) {
  return context_set(key, 0, (uintptr_t)value, strlen(value));
}
bool sluice_context_set_integer(const char *key, int64_t value) { return context_set(key, 1, (uint64_t)value, 0); }
bool sluice_context_set_boolean(const char *key, bool value) { return context_set(key, 3, value, 0); }
bool sluice_context_set_json(const char *key, const char *json) { return context_set(key, 5, (uintptr_t)json, strlen(json)); }

IMPORT("state", "get") void import_state_get(result *);
bool sluice_state_get(sluice_bytes *out) {
  result got;
  import_state_get(&got);
  if (!good("get", &got) || !got.as.option.some) return false;
  *out = (sluice_bytes){(const uint8_t *)got.as.option.value.ptr, got.as.option.value.len};
  return true;
}
IMPORT("state", "set") void import_state_set(const uint8_t *, size_t, result *);
bool sluice_state_set(sluice_bytes value) {
  result got;
  import_state_set(value.data, value.size, &got);
  return good("set", &got);
}

IMPORT("log", "log") void import_log(uint32_t, const char *, size_t);
void sluice_log(sluice_level level, const char *message) { import_log(level, ARGS(message)); }
IMPORT("log", "fail") void import_fail(const char *, size_t);
void sluice_fail(const char *reason) { import_fail(ARGS(reason)); }
IMPORT("clock", "now-us") uint64_t import_now_us(void);
uint64_t sluice_now_us(void) { return import_now_us(); }
IMPORT("clock", "monotonic-ns") uint64_t import_monotonic_ns(void);
uint64_t sluice_monotonic_ns(void) { return import_monotonic_ns(); }
IMPORT("random", "bytes") void import_random(uint32_t, result *);
sluice_bytes sluice_random(uint32_t length) {
  result got;
  import_random(length, &got);
  return bytes("random", &got);
}
IMPORT("secrets", "get") void import_secret(const char *, size_t, result *);
const char *sluice_secret(const char *name) {
  result got;
  import_secret(ARGS(name), &got);
  return good("secret", &got) ? text_of("secret", got.as.list.ptr, got.as.list.len) : NULL;
}

#define METRIC(c, name, type)                                                                                           \
  IMPORT("metrics", name) void import_##c(const char *, size_t, const text *, size_t, type, result *);                   \
  bool sluice_##c(const char *metric, const sluice_field *of, size_t count, type value) {                                \
    result got;                                                                                                          \
    import_##c(ARGS(metric), labels(of, count), count, value, &got);                                                     \
    return good(name, &got);                                                                                             \
  }
METRIC(count, "count", uint64_t)
METRIC(gauge, "gauge", double)
METRIC(observe, "observe", double)

IMPORT("kv", "get") void import_kv_get(const char *, size_t, const char *, size_t, result *);
sluice_bytes sluice_kv_get(const char *space, const char *key) {
  result got;
  import_kv_get(ARGS(space), ARGS(key), &got);
  if (!good("kv get", &got) || !got.as.option.some) return (sluice_bytes){NULL, 0};
  const char *at = empty_if_null(got.as.option.value.ptr, got.as.option.value.len);
  return (sluice_bytes){(const uint8_t *)at, got.as.option.value.len};
}
IMPORT("kv", "set")
void import_kv_set(const char *, size_t, const char *, size_t, const uint8_t *, size_t, uint32_t, uint64_t, result *);
bool sluice_kv_set(const char *space, const char *key, sluice_bytes value, uint64_t ttl_ms) {
  result got;
  import_kv_set(ARGS(space), ARGS(key), value.data, value.size, ttl_ms != 0, ttl_ms, &got);
  return good("kv set", &got);
}
IMPORT("kv", "delete") void import_kv_delete(const char *, size_t, const char *, size_t, result *);
bool sluice_kv_delete(const char *space, const char *key) {
  result got;
  import_kv_delete(ARGS(space), ARGS(key), &got);
  return good("kv delete", &got) && got.as.u8;
}

/* Configuration. */

const char *sluice_refuse(const char *path, const char *message) { return sluice_concat(path, ": ", message, NULL); }

const char *sluice_unknown_key(const sluice_json *config, ...) {
  for (const sluice_json *member = config->first; member; member = member->next) {
    va_list names;
    bool known = false;
    va_start(names, config);
    for (const char *name; !known && (name = va_arg(names, const char *));) known = strcmp(name, member->name) == 0;
    va_end(names);
    if (!known) return sluice_refuse(member->name, "unknown key");
  }
  return NULL;
}

IMPORT("interest", "request-body") void import_request_bodies(uint64_t, const text *, size_t, result *);
IMPORT("interest", "response-body") void import_response_bodies(uint64_t, const text *, size_t, result *);
#define WANT(c, name, import)                                                                                           \
  bool sluice_##c##_of(uint64_t max_bytes, const char *const *types, size_t count) {                                     \
    text *made = take(count * sizeof(text), 4);                                                                          \
    for (size_t i = 0; i < count; i++) made[i] = (text){ARGS(types[i])};                                                 \
    result got;                                                                                                          \
    import(max_bytes, made, count, &got);                                                                                \
    return good(name, &got);                                                                                             \
  }                                                                                                                      \
  bool sluice_##c(uint64_t max_bytes, ...) {                                                                             \
    const char *types[16];                                                                                               \
    size_t count = 0;                                                                                                    \
    va_list list;                                                                                                        \
    va_start(list, max_bytes);                                                                                           \
    for (const char *type; count < 16 && (type = va_arg(list, const char *));) types[count++] = type;                    \
    va_end(list);                                                                                                        \
    return sluice_##c##_of(max_bytes, types, count);                                                                     \
  }
WANT(want_request_bodies, "request-body", import_request_bodies)
WANT(want_response_bodies, "response-body", import_response_bodies)

/* Hooks. */

const char *sluice_run_configure(const char *(*configure)(const sluice_json *), const char *json, size_t length, void *out) {
  struct { uint8_t refused; text message; } *answer = out;
  error_code = SLUICE_OK;
  const sluice_json *config = sluice_json_parse((sluice_bytes){(const uint8_t *)json, length});
  const char *message = config ? configure(config) : ": expected JSON";
  if (!message && error_code != SLUICE_OK) message = sluice_concat(": ", error_text, NULL);
  answer->refused = message != NULL;
  if (message) answer->message = (text){ARGS(message)};
  kept_chunk = current;
  kept_used = used;
  return message;
}

static void end(void) {
  if (error_code != SLUICE_OK) sluice_fail(error_text);
  error_code = SLUICE_OK;
  reset();
}

sluice_verdict sluice_run(sluice_verdict (*hook)(void)) {
  sluice_verdict verdict = hook();
  if (error_code != SLUICE_OK) verdict = SLUICE_CONTINUE;
  end();
  return verdict;
}

void sluice_run_void(void (*hook)(void)) {
  hook();
  end();
}
