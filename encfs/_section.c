/* Fills entries of a dm-integrity journal section with a run of consecutive blocks, in one call.
 *
 * Why: a section has an entry of a hundred bytes for every block, spread over its sectors; from Python each costs as
 * much as encrypting half of its block.
 *
 * Spec: Linux drivers/md/dm-integrity.c, struct journal_entry, struct journal_sector; 1.10.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <stdint.h>
#include <string.h>

#define SECTOR 512
#define WORD 8
#define TAG 32
#define ENTRY_SECTORS 8 /* entries lie in turn in each of so many sectors, which come before the data */

static void put_u64(unsigned char *to, uint64_t value)
{
    for (int i = 0; i < WORD; i++)
        to[i] = (unsigned char)(value >> (8 * i));
}

static void fill(unsigned char *section, Py_ssize_t index, uint64_t block, const unsigned char *data,
                 const unsigned char *tags, Py_ssize_t count, Py_ssize_t size)
{
    const Py_ssize_t sectors = size / SECTOR, entry_size = WORD + sectors * WORD + TAG;
    memcpy(section + ENTRY_SECTORS * SECTOR + index * size, data, (size_t)(count * size));
    for (Py_ssize_t i = 0; i < count; i++, index++, block++, data += size, tags += TAG) {
        unsigned char *entry = section + index % ENTRY_SECTORS * SECTOR + index / ENTRY_SECTORS * entry_size;
        put_u64(entry, block * (uint64_t)sectors);
        /* The last word of each of the block's sectors, where commit ids will be. */
        for (Py_ssize_t s = 0; s < sectors; s++)
            memcpy(entry + WORD + s * WORD, data + (s + 1) * SECTOR - WORD, WORD);
        memcpy(entry + WORD + sectors * WORD, tags, TAG);
    }
}

/* Whether entries `index` to `index + count` are in a section of that many bytes. */
static int fits(Py_ssize_t length, Py_ssize_t index, Py_ssize_t count, Py_ssize_t size)
{
    if (size < SECTOR || size > 8 * SECTOR || size % SECTOR || index < 0 || count < 0)
        return 0;
    const Py_ssize_t entry_size = WORD + size / SECTOR * WORD + TAG;
    const Py_ssize_t entries = (SECTOR - WORD) / entry_size * ENTRY_SECTORS;
    return length == ENTRY_SECTORS * SECTOR + entries * size && count <= entries && index <= entries - count;
}

static PyObject *put(PyObject *self, PyObject *args)
{
    (void)self;
    Py_buffer section, data, tags;
    Py_ssize_t index, size;
    unsigned long long block;
    if (!PyArg_ParseTuple(args, "w*nKy*y*n:put", &section, &index, &block, &data, &tags, &size))
        return NULL;
    PyObject *result = NULL;
    const Py_ssize_t count = tags.len / TAG;
    if (tags.len % TAG || !fits(section.len, index, count, size) || data.len != count * size)
        PyErr_Format(PyExc_ValueError, "entry %zd of a section of %zd bytes: %zd bytes in blocks of %zd, %zd of tags",
                     index, section.len, data.len, size, tags.len);
    else {
        fill(section.buf, index, block, data.buf, tags.buf, count, size);
        result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&section);
    PyBuffer_Release(&data);
    PyBuffer_Release(&tags);
    return result;
}

static PyMethodDef methods[] = {
    {"put", put, METH_VARARGS,
     "put(section, index, block, data, tags, block_size): entries from index on, for blocks from number block on."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_section", "Entries of a dm-integrity journal section.", 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__section(void)
{
    return PyModuleDef_Init(&module);
}
