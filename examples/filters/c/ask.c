/* Asks a service who the caller is, for a few requests of each caller. */
#include <sluice.h>
#include <string.h>

static const char *url;
static int64_t amount;

static const char *configure(const sluice_json *config) {
  url = sluice_json_text(sluice_json_get(config, "url"));
  if (!url) return sluice_refuse("url", "expected the URL of the service");
  if (!sluice_json_integer(sluice_json_get(config, "amount"), &amount) || amount < 1) return sluice_refuse("amount", "expected at least 1");
  return sluice_unknown_key(config, "url", "amount", NULL);
}
SLUICE_CONFIGURE(configure)

static sluice_verdict on_request(void) {
  const char *caller = sluice_request_header("x-caller");
  if (!caller) caller = "";
  if (strlen(caller) > 100) return sluice_problem(403, "Forbidden", "the name of the caller is too long", "unknown-caller");

  sluice_limit limit = {.key = caller, .amount = (uint64_t)amount, .window_ms = 3600000};
  const sluice_standing *standing = sluice_limiter_take(&limit, 1, 1);
  if (!standing) return SLUICE_CONTINUE;
  if (!standing->allowed) {
    sluice_problem(429, "Too Many Requests", "the service may be asked later", "too-many");
    sluice_response_set_header("retry-after", sluice_decimal((standing->retry_after_ms + 999) / 1000));
    return SLUICE_RESPOND;
  }

  sluice_json member = {.name = "caller", .name_length = 6}, document = {.type = SLUICE_OBJECT, .first = &member};
  sluice_json_set_text(&member, caller);
  const sluice_field type = {"content-type", "application/json"};
  sluice_outgoing asked = {.method = "POST", .url = url, .headers = {&type, 1}, .body = sluice_json_write(&document)};
  const sluice_incoming *answer = sluice_http_send(&asked, 1, 500);
  if (!answer) return SLUICE_CONTINUE;
  if (answer->error != SLUICE_OK) {
    sluice_fail(answer->error_text);
    return SLUICE_CONTINUE;
  }
  if (answer->status != 200) return sluice_problem(403, "Forbidden", "the caller is not known", "unknown-caller");

  int64_t account;
  sluice_json *known = sluice_json_parse(answer->body);
  if (!known || !sluice_json_integer(sluice_json_get(known, "account"), &account) || account < 0) sluice_fail("the service names no account");
  else sluice_request_set_header("x-account", sluice_decimal((uint64_t)account));
  return SLUICE_CONTINUE;
}
SLUICE_ON_REQUEST(on_request)
