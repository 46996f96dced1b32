/* What the source of a page names (MiMo 2.1): looked at before anything that costs more.
 *
 * `source_names` collects the values of a few attributes in one pass from equals sign to equals sign. The same in
 * Python, and what counts as a value, is in `source_names.py`.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if PY_VERSION_HEX >= 0x030E0000
#define hash_of(data, size) Py_HashBuffer(data, size)
#else
#define hash_of(data, size) _Py_HashBytes(data, size)
#endif

typedef struct {
    const char *name, *prefix;
    int words; /* whether each word of the value is a name */
} Name;

static const Name NAMES[] = {
    {"class", "", 1},
    {"id", "", 0},
    {"data-testid", "data-testid=", 0},
    {"data-test-id", "data-test-id=", 0},
    {"itemtype", "itemtype=", 0},
    {"slot", "slot=", 0},
    {"rel", "rel=", 0},
    {NULL, NULL, 0},
};

typedef struct {
    Py_hash_t hash;
    int64_t start, size; /* in the text that is written; size 0: free */
} Entry;

typedef struct {
    uint8_t *text;
    int64_t size, room;
    Entry *entries;
    int64_t used, capacity; /* a power of two */
} Found;

static int is_space(uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static uint8_t lower(uint8_t c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; }

static int is_word(uint8_t c) {
    return (lower(c) >= 'a' && lower(c) <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

/* The name that ends before `end`, or NULL. */
static const Name *name_before(const uint8_t *data, int64_t end) {
    if (end < 2) return NULL;
    uint8_t last = lower(data[end - 1]);
    if (last != 's' && last != 'd' && last != 'e' && last != 't' && last != 'l') return NULL;
    for (const Name *known = NAMES; known->name; known++) {
        const char *name = known->name;
        int64_t size = (int64_t)strlen(name), start = end - size, i = 0;
        if (start < 0 || (start > 0 && is_word(data[start - 1]))) continue;
        while (i < size && lower(data[start + i]) == (uint8_t)name[i]) i++;
        if (i == size) return known;
    }
    return NULL;
}

static int grow(Found *found) {
    int64_t capacity = found->capacity * 2;
    Entry *entries = calloc((size_t)capacity, sizeof(Entry));
    if (!entries) return 0;
    for (int64_t i = 0; i < found->capacity; i++) {
        Entry entry = found->entries[i];
        if (!entry.size) continue;
        int64_t at = entry.hash & (capacity - 1);
        while (entries[at].size) at = (at + 1) & (capacity - 1);
        entries[at] = entry;
    }
    free(found->entries);
    found->entries = entries;
    found->capacity = capacity;
    return 1;
}

/* Write a line, the value behind this prefix, unless it is empty or stands there already; 0 without memory. */
static int put(Found *found, const char *prefix, const uint8_t *value, int64_t size) {
    int64_t prefix_size = (int64_t)strlen(prefix), whole = prefix_size + size;
    if (!whole) return 1;
    if (found->size + whole + 1 > found->room) {
        int64_t room = 2 * found->room + whole + 1;
        uint8_t *text = realloc(found->text, (size_t)room);
        if (!text) return 0;
        found->text = text;
        found->room = room;
    }
    uint8_t *line = found->text + found->size;
    memcpy(line, prefix, (size_t)prefix_size);
    memcpy(line + prefix_size, value, (size_t)size);
    Py_hash_t hash = hash_of(line, whole);
    int64_t at = hash & (found->capacity - 1);
    for (Entry *entry; (entry = &found->entries[at])->size; at = (at + 1) & (found->capacity - 1))
        if (entry->hash == hash && entry->size == whole && !memcmp(found->text + entry->start, line, (size_t)whole))
            return 1;
    found->entries[at] = (Entry){hash, found->size, whole};
    line[whole] = '\n';
    found->size += whole + 1;
    return 2 * ++found->used < found->capacity || grow(found);
}

static int put_words(Found *found, const uint8_t *data, int64_t start, int64_t stop) {
    for (int64_t end; start < stop; start = end + 1) {
        for (end = start; end < stop && !is_space(data[end]);) end++;
        if (!put(found, "", data + start, end - start)) return 0;
    }
    return 1;
}

static int collect(const uint8_t *data, int64_t size, Found *found) {
    int64_t at = 0;
    for (const uint8_t *sign; at < size && (sign = memchr(data + at, '=', (size_t)(size - at)));) {
        int64_t value = sign - data + 1, stop;
        at = value;
        const Name *name = name_before(data, sign - data);
        if (!name) continue;
        while (value < size && is_space(data[value])) value++;
        if (value == size) break;
        if (data[value] == '"' || data[value] == '\'') {
            uint8_t quote = data[value++];
            const uint8_t *closing = memchr(data + value, quote, (size_t)(size - value));
            stop = closing ? closing - data : size;
        } else {
            for (stop = value; stop < size && !is_space(data[stop]); stop++)
                if (data[stop] == '>' || data[stop] == '"' || data[stop] == '\'') break;
            if (stop == value) continue;
        }
        if (!(name->words ? put_words(found, data, value, stop) : put(found, name->prefix, data + value, stop - value)))
            return 0;
        at = stop;
    }
    return 1;
}

static PyObject *source_names(PyObject *self, PyObject *source) {
    char *data;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(source, &data, &size) < 0) return NULL;
    Found found = {malloc(4096), 0, 4096, calloc(1024, sizeof(Entry)), 0, 1024};
    PyObject *result = NULL;
    if (found.text && found.entries && collect((const uint8_t *)data, size, &found))
        result = PyBytes_FromStringAndSize((const char *)found.text, found.size);
    else
        PyErr_NoMemory();
    free(found.text);
    free(found.entries);
    return result;
}

static PyMethodDef methods[] = {
    {"source_names", source_names, METH_O, "What a page's classes, ids and the like are, a line each, each once."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_source", "Pages before they are parsed.", -1, methods};

PyMODINIT_FUNC PyInit__source(void) { return PyModule_Create(&module); }
