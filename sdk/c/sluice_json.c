/* JSON (RFC 8259): read into values that keep the text of numbers, and written again. */
#include <string.h>

#include "sluice.h"

enum { DEEPEST = 128 };

typedef struct {
  const uint8_t *at, *end;
  int depth;
} reader;

static void skip_blanks(reader *in) {
  while (in->at < in->end && (*in->at == ' ' || *in->at == '\n' || *in->at == '\r' || *in->at == '\t')) in->at++;
}

static bool accept(reader *in, char wanted) {
  skip_blanks(in);
  if (in->at == in->end || *in->at != (uint8_t)wanted) return false;
  in->at++;
  return true;
}

static bool word(reader *in, const char *wanted) {
  size_t length = strlen(wanted);
  if ((size_t)(in->end - in->at) < length || memcmp(in->at, wanted, length) != 0) return false;
  in->at += length;
  return true;
}

static bool digits(reader *in) {
  const uint8_t *start = in->at;
  while (in->at < in->end && *in->at >= '0' && *in->at <= '9') in->at++;
  return in->at > start;
}

static bool next_is(const reader *in, char wanted) { return in->at < in->end && *in->at == (uint8_t)wanted; }

static bool number(reader *in, sluice_json *out) {
  const uint8_t *start = in->at;
  if (next_is(in, '-')) in->at++;
  if (next_is(in, '0')) in->at++;
  else if (!digits(in)) return false;
  if (next_is(in, '.')) {
    in->at++;
    if (!digits(in)) return false;
  }
  if (next_is(in, 'e') || next_is(in, 'E')) {
    in->at++;
    if (next_is(in, '+') || next_is(in, '-')) in->at++;
    if (!digits(in)) return false;
  }
  out->type = SLUICE_NUMBER;
  out->length = (size_t)(in->at - start);
  char *copy = sluice_alloc(out->length + 1);
  memcpy(copy, start, out->length);
  copy[out->length] = 0;
  out->text = copy;
  return true;
}

static bool hex4(reader *in, uint32_t *out) {
  if (in->end - in->at < 4) return false;
  *out = 0;
  for (int i = 0; i < 4; i++, in->at++) {
    uint8_t c = *in->at, low = c | 0x20;
    if (c >= '0' && c <= '9') *out = *out * 16 + (c - '0');
    else if (low >= 'a' && low <= 'f') *out = *out * 16 + (low - 'a' + 10u);
    else return false;
  }
  return true;
}

static char *put_utf8(char *to, uint32_t c) {
  if (c < 0x80) *to++ = (char)c;
  else if (c < 0x800) *to++ = (char)(0xc0 | c >> 6), *to++ = (char)(0x80 | (c & 0x3f));
  else if (c < 0x10000)
    *to++ = (char)(0xe0 | c >> 12), *to++ = (char)(0x80 | (c >> 6 & 0x3f)), *to++ = (char)(0x80 | (c & 0x3f));
  else
    *to++ = (char)(0xf0 | c >> 18), *to++ = (char)(0x80 | (c >> 12 & 0x3f)), *to++ = (char)(0x80 | (c >> 6 & 0x3f)),
        *to++ = (char)(0x80 | (c & 0x3f));
  return to;
}

/* The length of the UTF-8 sequence at `at` (RFC 3629 §4); 0 for none. */
static int utf8(const uint8_t *at, const uint8_t *end) {
  uint8_t c = at[0];
  int length = c >= 0xc2 && c <= 0xdf ? 2 : (c & 0xf0) == 0xe0 ? 3 : c >= 0xf0 && c <= 0xf4 ? 4 : 0;
  if (length == 0 || end - at < length) return 0;
  for (int i = 1; i < length; i++)
    if ((at[i] & 0xc0) != 0x80) return 0;
  bool overlong = (c == 0xe0 && at[1] < 0xa0) || (c == 0xf0 && at[1] < 0x90);
  bool no_scalar = (c == 0xed && at[1] > 0x9f) || (c == 0xf4 && at[1] > 0x8f);
  return overlong || no_scalar ? 0 : length;
}

/* Behind the opening quote. */
static bool string(reader *in, const char **text, size_t *length) {
  const uint8_t *close = in->at;
  while (close < in->end && *close != '"') close += *close == '\\' ? 2 : 1;
  if (close >= in->end) return false;
  /* No escape is shorter than what it stands for. */
  char *copy = sluice_alloc((size_t)(close - in->at) + 1), *to = copy;
  while (in->at < close) {
    uint8_t c = *in->at;
    if (c < 0x20) return false;
    if (c >= 0x80) {
      int more = utf8(in->at, close);
      if (more == 0) return false;
      memcpy(to, in->at, (size_t)more);
      to += more;
      in->at += more;
      continue;
    }
    in->at++;
    if (c != '\\') {
      *to++ = (char)c;
      continue;
    }
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    uint8_t escape = *in->at++;
    const char *named = escape ? strchr(names, escape) : NULL;
    uint32_t unit, low;
    if (named) *to++ = values[named - names];
    else if (escape != 'u' || !hex4(in, &unit) || (unit >= 0xdc00 && unit < 0xe000)) return false;
    else if (unit < 0xd800 || unit >= 0xe000) to = put_utf8(to, unit);
    else if (word(in, "\\u") && hex4(in, &low) && low >= 0xdc00 && low < 0xe000)
      to = put_utf8(to, 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00));
    else return false;
  }
  in->at = close + 1;
  *to = 0;
  *text = copy;
  *length = (size_t)(to - copy);
  return true;
}

static bool value(reader *in, sluice_json *out);

static bool members(reader *in, sluice_json *out, bool named) {
  char close = named ? '}' : ']';
  sluice_json **next = &out->first;
  if (++in->depth > DEEPEST) return false;
  if (!accept(in, close)) {
    do {
      sluice_json *member = sluice_alloc(sizeof *member);
      memset(member, 0, sizeof *member);
      if (named && !(accept(in, '"') && string(in, &member->name, &member->name_length) && accept(in, ':'))) return false;
      if (!value(in, member)) return false;
      *next = member;
      next = &member->next;
    } while (accept(in, ','));
    if (!accept(in, close)) return false;
  }
  in->depth--;
  return true;
}

static bool value(reader *in, sluice_json *out) {
  skip_blanks(in);
  if (in->at == in->end) return false;
  switch (*in->at) {
    case '{': in->at++; out->type = SLUICE_OBJECT; return members(in, out, true);
    case '[': in->at++; out->type = SLUICE_ARRAY; return members(in, out, false);
    case '"': in->at++; out->type = SLUICE_TEXT; return string(in, &out->text, &out->length);
    case 't': out->type = SLUICE_TRUE; return word(in, "true");
    case 'f': out->type = SLUICE_FALSE; return word(in, "false");
    case 'n': out->type = SLUICE_NULL; return word(in, "null");
    default: return number(in, out);
  }
}

sluice_json *sluice_json_parse(sluice_bytes text) {
  reader in = {text.data, text.data + text.size, 0};
  sluice_json *out = sluice_alloc(sizeof *out);
  memset(out, 0, sizeof *out);
  if (!value(&in, out)) return NULL;
  skip_blanks(&in);
  return in.at == in.end ? out : NULL;
}

/* Writes where there is a place, and counts. */
typedef struct {
  uint8_t *to;
  size_t size;
} writer;

static void put(writer *out, const char *text, size_t length) {
  if (out->to) memcpy(out->to + out->size, text, length);
  out->size += length;
}

static void put_string(writer *out, const char *text, size_t length) {
  put(out, "\"", 1);
  size_t start = 0;
  for (size_t i = 0; i < length; i++) {
    uint8_t c = (uint8_t)text[i];
    if (c >= 0x20 && c != '"' && c != '\\') continue;
    put(out, text + start, i - start);
    start = i + 1;
    static const char hex[] = "0123456789abcdef";
    char escape[6] = {'\\', (char)c};
    if (c < 0x20) memcpy(escape, (char[6]){'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]}, 6);
    put(out, escape, c < 0x20 ? 6 : 2);
  }
  put(out, text + start, length - start);
  put(out, "\"", 1);
}

static void put_value(writer *out, const sluice_json *value) {
  switch (value->type) {
    case SLUICE_NULL: put(out, "null", 4); return;
    case SLUICE_FALSE: put(out, "false", 5); return;
    case SLUICE_TRUE: put(out, "true", 4); return;
    case SLUICE_NUMBER: put(out, value->text, value->length); return;
    case SLUICE_TEXT: put_string(out, value->text, value->length); return;
    case SLUICE_ARRAY:
    case SLUICE_OBJECT: break;
  }
  bool named = value->type == SLUICE_OBJECT;
  put(out, named ? "{" : "[", 1);
  for (const sluice_json *member = value->first; member; member = member->next) {
    if (member != value->first) put(out, ",", 1);
    if (named) {
      put_string(out, member->name, member->name_length);
      put(out, ":", 1);
    }
    put_value(out, member);
  }
  put(out, named ? "}" : "]", 1);
}

sluice_bytes sluice_json_write(const sluice_json *value) {
  writer out = {NULL, 0};
  put_value(&out, value);
  out.to = sluice_alloc(out.size);
  out.size = 0;
  put_value(&out, value);
  return (sluice_bytes){out.to, out.size};
}

sluice_json *sluice_json_get(const sluice_json *object, const char *name) {
  if (!object || object->type != SLUICE_OBJECT) return NULL;
  for (sluice_json *member = object->first; member; member = member->next)
    if (member->name_length == strlen(name) && memcmp(member->name, name, member->name_length) == 0) return member;
  return NULL;
}

const char *sluice_json_text(const sluice_json *value) {
  return value && value->type == SLUICE_TEXT && !memchr(value->text, 0, value->length) ? value->text : NULL;
}

bool sluice_json_integer(const sluice_json *value, int64_t *out) {
  if (!value || value->type != SLUICE_NUMBER) return false;
  bool negative = value->text[0] == '-';
  uint64_t sum = 0, most = negative ? (uint64_t)INT64_MAX + 1 : INT64_MAX;
  for (const char *at = value->text + negative; *at; at++) {
    if (*at < '0' || *at > '9') return false;
    uint64_t digit = (uint64_t)(*at - '0');
    if (sum > (most - digit) / 10) return false;
    sum = sum * 10 + digit;
  }
  *out = negative ? (int64_t)(0 - sum) : (int64_t)sum;
  return true;
}

void sluice_json_set_text(sluice_json *value, const char *text) {
  value->type = SLUICE_TEXT;
  value->text = text;
  value->length = strlen(text);
  value->first = NULL;
}
