/* Calls what no example calls, and answers with what came of it, a line for each. */
#include <sluice.h>
#include <string.h>

static const char *url, *said;

static const char *configure(const sluice_json *config) {
  url = sluice_json_text(sluice_json_get(config, "url"));
  return url ? NULL : sluice_refuse("url", "expected a URL");
}
SLUICE_CONFIGURE(configure)

#define LINE(...) said = sluice_concat(said, __VA_ARGS__, "\n", NULL)

static const char *flag(bool value) { return value ? "true" : "false"; }

static const char *text(sluice_bytes bytes) {
  char *made = sluice_alloc(bytes.size + 1);
  if (bytes.size) memcpy(made, bytes.data, bytes.size);
  made[bytes.size] = 0;
  return made;
}

static sluice_bytes bytes(const char *value) { return (sluice_bytes){(const uint8_t *)value, strlen(value)}; }

static const char *kind(sluice_error_code code) {
  static const char *const names[] = {"wrong hook", "not granted", "invalid", "too large", "unavailable", "timeout", "other"};
  return code == SLUICE_OK ? "none" : names[code];
}

/* A call that has been refused. */
static void failed(const char *name) {
  if (sluice_error() == SLUICE_OK) return;
  LINE(name, " ", kind(sluice_error()));
  sluice_clear_error();
}

static void limits(void) {
  const sluice_limit both[] = {{.key = "a", .amount = 2, .window_ms = 3600000},
                               {.key = "b", .algorithm = SLUICE_FIXED_WINDOW, .amount = 10, .window_ms = 366ull * 86400000}};
  for (uint64_t cost = 1; cost <= 5; cost += 4) {
    const sluice_standing *got = sluice_limiter_take(both, 2, cost);
    if (!got) return;
    LINE("take ", flag(got[0].allowed), " ", sluice_decimal(got[0].remaining), ", ", flag(got[1].allowed), " ", sluice_decimal(got[1].remaining));
  }
  sluice_limiter_take(&(sluice_limit){.key = "a", .window_ms = 3600000}, 1, 1);
  failed("take");
  const sluice_place_limit places[] = {{"free", 9}, {"p", 1}};
  for (int i = 0; i < 2; i++) {
    sluice_admission got;
    if (!sluice_concurrency_enter(places, 2, &both[1], 1, 1, &got)) return;
    LINE("enter ", got.full < 0 ? "-1" : sluice_decimal((uint64_t)got.full), " ", got.standings ? "1" : "0");
  }
}

static void stores(void) {
  for (int i = 0; i < 3; i++) {
    if (i == 2) sluice_kv_set("s", "k", bytes("v"), 60000);
    sluice_bytes value = {NULL, 0};
    sluice_reservation got = sluice_kv_get_or_reserve("s", "k", 60000, &value);
    LINE("reserve ", sluice_decimal(got), " ", text(value));
    if (got != SLUICE_PENDING) continue;
    sluice_kv_wait("s", "k", 1);
    failed("wait");
  }
  LINE("wait ", text(sluice_kv_wait("s", "k", 1)));
  sluice_bytes expected = bytes("v");
  bool swapped = sluice_kv_compare_and_swap("s", "k", &expected, bytes("w"), 60000);
  bool again = sluice_kv_compare_and_swap("s", "k", NULL, bytes("x"), 0);
  LINE("swap ", flag(swapped), " ", flag(again), " ", text(sluice_kv_get("s", "k")));
}

static void services(void) {
  const sluice_field fields[] = {{"x-a", "1"}, {"x-b", "2"}};
  const sluice_outgoing requests[] = {
      {.url = url, .headers = {fields, 2}}, {.url = "http://192.0.2.1/"}, {.method = "PUT", .url = url, .body = bytes("body")}};
  const sluice_incoming *answers = sluice_http_send(requests, 3, 5000);
  for (size_t i = 0; answers && i < 3; i++) {
    if (answers[i].error != SLUICE_OK) LINE("http ", kind(answers[i].error));
    for (size_t j = 0; j < answers[i].headers.count; j++)
      if (strcmp(answers[i].headers.items[j].name, "x-seen") == 0)
        LINE("http ", sluice_decimal(answers[i].status), " ", answers[i].headers.items[j].value, " ", text(answers[i].body));
  }
}

static const char *hex(uint8_t byte) {
  static const char digits[] = "0123456789abcdef";
  char *made = sluice_alloc(3);
  made[0] = digits[byte >> 4];
  made[1] = digits[byte & 15];
  made[2] = 0;
  return made;
}

/* What is as expected has no line. */
static void heads(void) {
  sluice_response_set_header("x-a", "1");
  sluice_response_append_header("x-a", "2");
  sluice_texts values = sluice_response_header_values("x-a");
  if (values.count != 2 || strcmp(values.items[1], "2") != 0) LINE("values ", sluice_decimal(values.count));
  sluice_fields all = sluice_response_headers();
  if (all.count != 2 || strcmp(all.items[0].value, "1") != 0) LINE("headers ", sluice_decimal(all.count));
  sluice_response_remove_header("x-a");
  const char *writer = sluice_context_writer("i");
  if (!writer || strcmp(writer, "calls") != 0) LINE("writer ", writer ? writer : "–");
  if (sluice_consumer_labels().count) LINE("labels");
}

static sluice_verdict on_request(void) {
  if (strcmp(sluice_request_path(), "/calls") != 0) return SLUICE_CONTINUE;
  said = "";
  limits();
  stores();
  services();
  sluice_bytes hash = sluice_hash("sha-256", bytes("abc")), code = sluice_hmac("sha-512", bytes("key"), bytes("abc"));
  if (!hash.size) return SLUICE_CONTINUE;
  LINE("hash ", hex(hash.data[0]), hex(hash.data[1]), " ", sluice_decimal(code.size), " ", flag(sluice_equal(hash, hash)), " ", flag(sluice_equal(hash, code)));
  const char *plan = sluice_consumer_plan();
  LINE("consumer ", flag(sluice_consumer_known()), " ", flag(plan != NULL));
  sluice_vouch("ann", "test");
  failed("vouch");
  sluice_authenticate_password("ann", bytes("x"));
  failed("password");
  sluice_context_set_integer("i", -7);
  sluice_context_set_boolean("b", true);
  sluice_context_set_json("j", "[1]");
  int64_t integer = 0, none = 0;
  bool boolean = false;
  sluice_context_integer("i", &integer);
  sluice_context_boolean("b", &boolean);
  LINE("context -", sluice_decimal((uint64_t)-integer), " ", flag(boolean), " ", sluice_context_text("j"), " ", flag(sluice_context_integer("j", &none)));
  sluice_request_set_query("a=b");
  LINE("query ", sluice_request_query(), " ", sluice_request_protocol());
  sluice_chunk_hold(0);
  failed("piece");
  heads();
  sluice_response_set_body(bytes(said));
  return SLUICE_RESPOND;
}
SLUICE_ON_REQUEST(on_request)

static void select_upstream(void) {
  sluice_texts upstreams = sluice_route_upstreams();
  if (upstreams.count != 1 || strcmp(upstreams.items[0], "two") != 0) return;
  sluice_endpoints all = sluice_route_endpoints();
  if (!all.count) return;
  sluice_endpoint last = all.items[all.count - 1];
  sluice_log(SLUICE_INFO, sluice_concat("endpoints ", sluice_decimal(all.count), " ", last.upstream, " ", flag(last.healthy), " ",
                                        sluice_decimal(last.weight), NULL));
  sluice_route_choose_endpoints(&last.address, 1);
}
SLUICE_SELECT_UPSTREAM(select_upstream)

static void on_response_trailers(void) { sluice_response_set_trailer("x-sum", sluice_concat(sluice_response_trailer("x-sum"), "!", NULL)); }
SLUICE_ON_RESPONSE_TRAILERS(on_response_trailers)
