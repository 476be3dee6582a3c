"""Mends a leak of componentize-py 0.25 in the components that it makes.

Bytes that a filter hands to the gateway (`set_body`, `state.set`) are copied into memory that the runtime never gives back: `maybe_pop_list` in its
runtime/src/lib.rs allocates and leaves the pointer to nobody, where all else is put on the list of what the call frees at its end
(`defer_deallocate`). So an instance would grow by the bytes of each such call until it has reached its limit.

The runtime is one of the core modules of the component, and exports the two functions that this is about, `wit_dylib_pop_list` and
`wit_dylib_dealloc_bytes`. It gets one function more, which stands in for the first: it calls it, and puts what it has allocated on the list.
A component of any other shape is left as it is.
"""

POP_LIST, DEALLOC_BYTES = b"wit_dylib_pop_list", b"wit_dylib_dealloc_bytes"
IMPORT, FUNCTION, EXPORT, CODE = 2, 3, 7, 10
CORE_MODULE = 1
COMPONENT = b"\0asm\x0d\0\x01\0"
MODULE = b"\0asm\x01\0\0\0"


def mend(component: bytes) -> bytes:
    """The component, with a runtime that frees what it allocates."""
    if component[:8] != COMPONENT:
        return component
    parts = list(_sections(component))
    mended = [_runtime(content) if kind == CORE_MODULE else None for kind, content in parts]
    if sum(each is not None for each in mended) != 1:
        return component
    return COMPONENT + b"".join(_section(kind, new or old) for (kind, old), new in zip(parts, mended))


def _runtime(module):
    """The module if it is the runtime, with the function more; else none."""
    if module[:8] != MODULE:
        return None
    sections = list(_sections(module))
    content = dict(sections)
    if not {FUNCTION, EXPORT, CODE} <= content.keys():
        return None
    exports = {name: (place, index) for name, kind, index, place in _exports(content[EXPORT]) if kind == 0}
    if POP_LIST not in exports or DEALLOC_BYTES not in exports:
        return None
    (place, pop_list), (_, dealloc_bytes) = exports[POP_LIST], exports[DEALLOC_BYTES]
    imported = _imported_functions(content.get(IMPORT, b"\0"))
    defined, at = _number(content[FUNCTION], 0)
    if pop_list < imported:
        return None
    types = content[FUNCTION][at:]
    its_type, after = 0, 0
    for _ in range(pop_list - imported + 1):
        its_type, after = _number(types, after)
    bodies, begin = _number(content[CODE], 0)
    entry, end = _name_end(content[EXPORT], place)
    content[FUNCTION] = _leb(defined + 1) + types + _leb(its_type)
    content[EXPORT] = content[EXPORT][:entry] + _leb(imported + defined) + content[EXPORT][end:]
    content[CODE] = _leb(bodies + 1) + content[CODE][begin:] + _body(pop_list, dealloc_bytes)
    # Only custom sections come more than once.
    return MODULE + b"".join(_section(kind, content[kind] if kind else old) for kind, old in sections)


def _body(pop_list, dealloc_bytes):
    """fn(cx, ty, retptr) -> len { len = pop_list(cx, ty, retptr); if *retptr != 0 { dealloc_bytes(cx, *retptr, len, 1, defer) } len }

    Where the pointer is null, the caller makes the copy itself, item by item, and frees it. An empty list has an allocation, too.
    """
    local_get, local_set, load, call = b"\x20", b"\x21", b"\x28\x02\0", b"\x10"
    cx, ty, retptr, length = b"\0", b"\x01", b"\x02", b"\x03"
    pointer = local_get + retptr + load
    code = local_get + cx + local_get + ty + local_get + retptr + call + _leb(pop_list) + local_set + length
    code += pointer + b"\x04\x40"
    code += local_get + cx + pointer + local_get + length + b"\x41\x01\x41\x01" + call + _leb(dealloc_bytes)
    code += b"\x0b" + local_get + length + b"\x0b"
    # One local beside the parameters, an i32.
    code = b"\x01\x01\x7f" + code
    return _leb(len(code)) + code


def _sections(binary):
    at = 8
    while at < len(binary):
        kind = binary[at]
        size, begin = _number(binary, at + 1)
        at = begin + size
        yield kind, binary[begin:at]


def _section(kind, content):
    return bytes([kind]) + _leb(len(content)) + content


def _exports(section):
    """Name, kind and index of each export, and where its kind is."""
    count, at = _number(section, 0)
    for _ in range(count):
        length, at = _number(section, at)
        name, place = section[at : at + length], at + length
        index, at = _number(section, place + 1)
        yield name, section[place], index, place


def _name_end(section, place):
    """Begin and end of the index of the export whose kind is there."""
    return place + 1, _number(section, place + 1)[1]


def _imported_functions(section):
    count, at = _number(section, 0)
    functions = 0
    for _ in range(count):
        for _ in range(2):
            length, at = _number(section, at)
            at += length
        kind, at = section[at], at + 1
        if kind == 0:
            functions += 1
            _, at = _number(section, at)
        elif kind == 3:
            at += 2
        else:
            # A table has the type of its elements before its limits, an exception tag an attribute before its type.
            at += kind == 1
            flags, at = _number(section, at)
            _, at = _number(section, at)
            if kind != 4 and flags & 1:
                _, at = _number(section, at)
    return functions


def _number(binary, at):
    value = shift = 0
    while True:
        byte = binary[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _leb(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])
