/* Sets a request header to a value of the config. */
#include <sluice.h>

static const char *header, *value;

static const char *configure(const sluice_json *config) {
  header = sluice_json_text(sluice_json_get(config, "header"));
  value = sluice_json_text(sluice_json_get(config, "value"));
  if (!header) return sluice_refuse("header", "expected the name of a header");
  if (!value) return sluice_refuse("value", "expected a text");
  return sluice_unknown_key(config, "header", "value", NULL);
}
SLUICE_CONFIGURE(configure)

static sluice_verdict on_request(void) {
  sluice_request_set_header(header, value);
  return SLUICE_CONTINUE;
}
SLUICE_ON_REQUEST(on_request)
