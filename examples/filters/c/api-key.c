/* Admits callers with an API key of the config, and says who they are. */
#include <sluice.h>

static const sluice_json *keys;

static const char *configure(const sluice_json *config) {
  keys = sluice_json_get(config, "keys");
  if (!keys || keys->type != SLUICE_OBJECT) return sluice_refuse("keys", "expected a table of keys");
  for (const sluice_json *key = keys->first; key; key = key->next) {
    int64_t account;
    const char *path = sluice_concat("keys.", key->name, NULL);
    if (!sluice_json_text(sluice_json_get(key, "name"))) return sluice_refuse(sluice_concat(path, ".name", NULL), "expected a text");
    if (!sluice_json_integer(sluice_json_get(key, "account"), &account))
      return sluice_refuse(sluice_concat(path, ".account", NULL), "expected a whole number");
  }
  return sluice_unknown_key(config, "keys", NULL);
}
SLUICE_CONFIGURE(configure)

static sluice_verdict refuse(const char *reason, const char *detail) {
  sluice_count("refused", &(sluice_field){"reason", reason}, 1, 1);
  sluice_problem(401, "Unauthorized", detail, reason);
  sluice_response_set_header("www-authenticate", "ApiKey");
  return SLUICE_RESPOND;
}

static sluice_verdict on_request(void) {
  const char *given = sluice_request_header("x-api-key");
  if (!given) return refuse("key-missing", "an API key is needed");
  const sluice_json *key = sluice_json_get(keys, given);
  if (!key) return refuse("key-unknown", "the API key is not valid");
  int64_t account = 0;
  sluice_json_integer(sluice_json_get(key, "account"), &account);
  sluice_context_set_consumer(sluice_json_text(sluice_json_get(key, "name")));
  sluice_context_set_integer("api-key.account", account);
  return SLUICE_CONTINUE;
}
SLUICE_ON_REQUEST(on_request)
