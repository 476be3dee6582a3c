/* Hides members of JSON response bodies, by their names. */
#include <sluice.h>
#include <string.h>

static const sluice_json *fields;

static const char *configure(const sluice_json *config) {
  fields = sluice_json_get(config, "fields");
  if (!fields || fields->type != SLUICE_ARRAY) return sluice_refuse("fields", "expected a list of names");
  for (const sluice_json *name = fields->first; name; name = name->next)
    if (!sluice_json_text(name)) return sluice_refuse("fields", "expected a list of names");
  sluice_want_response_bodies(1 << 20, "application/json", NULL);
  return sluice_unknown_key(config, "fields", NULL);
}
SLUICE_CONFIGURE(configure)

static bool is_hidden(const sluice_json *member) {
  for (const sluice_json *name = fields->first; member->name && name; name = name->next)
    if (member->name_length == name->length && memcmp(member->name, name->text, name->length) == 0) return true;
  return false;
}

static void redact(sluice_json *value) {
  for (sluice_json *member = value->first; member; member = member->next) {
    if (is_hidden(member)) sluice_json_set_text(member, "[redacted]");
    else redact(member);
  }
}

static sluice_verdict on_response_body(void) {
  sluice_json *body = sluice_json_parse(sluice_response_body());
  if (!body) return sluice_problem(502, "Bad Gateway", "the upstream's answer is not JSON", "not-json");
  redact(body);
  sluice_response_set_body(sluice_json_write(body));
  return SLUICE_CONTINUE;
}
SLUICE_ON_RESPONSE_BODY(on_response_body)
