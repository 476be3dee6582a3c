/* The canonical ABI of the interface in wit/, for the files of this library. Not for filters. */
#ifndef SLUICE_CALLS_H
#define SLUICE_CALLS_H

#include "sluice.h"

#include <string.h>

typedef struct {
  const char *ptr;
  size_t len;
} text;

/* `result<T, error>` for each T of at most 16 bytes: the largest case is an error, with a u64 or a text at 8. */
typedef struct {
  uint8_t refused;
  union {
    struct {
      uint8_t code;
      union { text why; uint64_t limit; } of;
    } error;
    text list;
    struct { uint8_t some; text value; } option;
    uint64_t u64;
    uint32_t u32;
    uint16_t u16;
    uint8_t u8;
  } as;
} result;
_Static_assert(sizeof(result) == 24, "the layout of the canonical ABI");

/* Memory until the hook returns. */
void *sluice_take(size_t size, size_t align);
/* Whether a call went well; a refusal is kept for the hook's end. */
bool sluice_good(const char *call, const result *got);
/* The refusal of a call as a text, and one that was not a call's result. */
const char *sluice_reason(const char *call, const result *got);
void sluice_refused(sluice_error_code code, const char *why);
/* What a list of bytes or of fields is in C. */
sluice_bytes sluice_bytes_of(const char *call, const result *got);
sluice_fields sluice_fields_of(const char *call, const result *got);
sluice_texts sluice_texts_of(const char *call, const result *got);
/* As they are called in these files. */
#define take sluice_take
#define good sluice_good
#define bytes sluice_bytes_of
#define fields sluice_fields_of
#define texts_of sluice_texts_of
#define text_of sluice_text_of
#define option_text sluice_option_text

static inline const char *empty_if_null(const char *value, size_t length) { return length ? value : ""; }
/* A text of the gateway. One that has a NUL is refused, since a filter would see only what is before it. */
const char *sluice_text_of(const char *call, const char *value, size_t length);
/* The same for a call that has none perhaps: NULL. */
const char *sluice_option_text(const char *call, const result *got);

#define IMPORT(interface, name) __attribute__((import_module("sluice:filter/" interface "@0.1.1"), import_name(name)))
#define ARGS(value) value, strlen(value)

/* What a call of each shape needs: a name in C, interface and name in WIT. */
#define GET_TEXT(c, interface, name)                                                     \
  IMPORT(interface, name) void import_##c(result *);                                     \
  const char *sluice_##c(void) {                                                         \
    result got;                                                                          \
    import_##c(&got);                                                                    \
    return good(name, &got) ? text_of(name, got.as.list.ptr, got.as.list.len) : NULL;    \
  }
#define GET_OPTION(c, interface, name)                                                   \
  IMPORT(interface, name) void import_##c(result *);                                     \
  const char *sluice_##c(void) {                                                         \
    result got;                                                                          \
    import_##c(&got);                                                                    \
    return option_text(name, &got);                                                      \
  }
#define GET_OPTION_BY(c, interface, name)                                                \
  IMPORT(interface, name) void import_##c(const char *, size_t, result *);               \
  const char *sluice_##c(const char *of) {                                               \
    result got;                                                                          \
    import_##c(ARGS(of), &got);                                                          \
    return option_text(name, &got);                                                      \
  }
#define GET_FIELDS(c, interface, name)                                                   \
  IMPORT(interface, name) void import_##c(result *);                                     \
  sluice_fields sluice_##c(void) {                                                       \
    result got;                                                                          \
    import_##c(&got);                                                                    \
    return fields(name, &got);                                                           \
  }
#define SET_TEXT(c, interface, name)                                                     \
  IMPORT(interface, name) void import_##c(const char *, size_t, result *);               \
  bool sluice_##c(const char *value) {                                                   \
    result got;                                                                          \
    import_##c(ARGS(value), &got);                                                       \
    return good(name, &got);                                                             \
  }
#define SET_TEXT_BY(c, interface, name)                                                  \
  IMPORT(interface, name) void import_##c(const char *, size_t, const char *, size_t, result *); \
  bool sluice_##c(const char *of, const char *value) {                                   \
    result got;                                                                          \
    import_##c(ARGS(of), ARGS(value), &got);                                             \
    return good(name, &got);                                                             \
  }
#define SET_NUMBER(c, interface, name, type)                                             \
  IMPORT(interface, name) void import_##c(type, result *);                               \
  bool sluice_##c(type value) {                                                          \
    result got;                                                                          \
    import_##c(value, &got);                                                             \
    return good(name, &got);                                                             \
  }
#define GET_BOOL(c, interface, name)                                                     \
  IMPORT(interface, name) void import_##c(result *);                                     \
  bool sluice_##c(void) {                                                                \
    result got;                                                                          \
    import_##c(&got);                                                                    \
    return good(name, &got) && got.as.u8;                                                \
  }
#define DO(c, interface, name)                                                           \
  IMPORT(interface, name) void import_##c(result *);                                     \
  bool sluice_##c(void) {                                                                \
    result got;                                                                          \
    import_##c(&got);                                                                    \
    return good(name, &got);                                                             \
  }

#endif
