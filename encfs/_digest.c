/* SHA-256 of many blocks, plain or as HMAC, in one call, through OpenSSL's EVP interface.
 *
 * Why: verity and integrity volumes hash every block on its way in. One call a block from Python costs more than
 * half of what the hash itself does, and holds the GIL in between. Here the GIL is released for a whole request.
 *
 * Every digest starts from a copy of a prepared state (the salt; HMAC's inner and outer key block). States belong
 * to the object and are only read after it was made, so calls may overlap. OpenSSL wipes a state when it is freed.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <stdint.h>
#include <string.h>

#define DIGEST 32
#define HMAC_BLOCK 64

typedef struct {
    PyObject_HEAD
    EVP_MD_CTX *inner; /* after the salt, or after key xor ipad */
    EVP_MD_CTX *outer; /* after key xor opad; NULL when digests are plain */
} Hasher;

static void put_u64(unsigned char *to, uint64_t value)
{
    for (int i = 0; i < 8; i++)
        to[i] = (unsigned char)(value >> (8 * i));
}

static EVP_MD_CTX *started(const unsigned char *prefix, size_t length)
{
    EVP_MD_CTX *state = EVP_MD_CTX_new();
    if (state != NULL && (EVP_DigestInit_ex(state, EVP_sha256(), NULL) != 1 ||
                          EVP_DigestUpdate(state, prefix, length) != 1)) {
        EVP_MD_CTX_free(state);
        return NULL;
    }
    return state;
}

/* One block: H(prefix | block), or HMAC(number | number | 8 zero bytes | block), dm-crypt's tag. */
static int one(EVP_MD_CTX *work, const Hasher *self, const unsigned char *block, size_t size, uint64_t number,
               unsigned char *out)
{
    if (EVP_MD_CTX_copy_ex(work, self->inner) != 1)
        return 0;
    if (self->outer == NULL)
        return EVP_DigestUpdate(work, block, size) == 1 && EVP_DigestFinal_ex(work, out, NULL) == 1;
    unsigned char head[24] = {0}, digest[DIGEST];
    put_u64(head, number);
    put_u64(head + 8, number);
    return EVP_DigestUpdate(work, head, sizeof head) == 1 && EVP_DigestUpdate(work, block, size) == 1 &&
           EVP_DigestFinal_ex(work, digest, NULL) == 1 && EVP_MD_CTX_copy_ex(work, self->outer) == 1 &&
           EVP_DigestUpdate(work, digest, DIGEST) == 1 && EVP_DigestFinal_ex(work, out, NULL) == 1;
}

/* Digests of all blocks into `out`, or, with `wanted`, the number of the first that differs. -1: all well. */
static Py_ssize_t run(const Hasher *self, const unsigned char *data, Py_ssize_t count, Py_ssize_t size,
                      uint64_t number, uint64_t step, unsigned char *out, const unsigned char *wanted, int *failed)
{
    unsigned char digest[DIGEST];
    Py_ssize_t differs = -1;
    EVP_MD_CTX *work = EVP_MD_CTX_new();
    *failed = work == NULL;
    for (Py_ssize_t i = 0; i < count && !*failed && differs < 0; i++, number += step) {
        unsigned char *to = out != NULL ? out + i * DIGEST : digest;
        *failed = !one(work, self, data + i * size, (size_t)size, number, to);
        if (wanted != NULL && !*failed && CRYPTO_memcmp(to, wanted + i * DIGEST, DIGEST) != 0)
            differs = i;
    }
    EVP_MD_CTX_free(work);
    return differs;
}

static int check(const Py_buffer *data, const Py_buffer *digests, Py_ssize_t size)
{
    if (size < 1 || size > (1 << 20) || data->len % size || digests->len != data->len / size * DIGEST) {
        PyErr_Format(PyExc_ValueError, "%zd bytes in blocks of %zd with %zd bytes of digests", data->len, size,
                     digests->len);
        return 0;
    }
    return 1;
}

static PyObject *finish(const Hasher *self, Py_buffer *data, Py_buffer *digests, Py_ssize_t size, uint64_t number,
                        uint64_t step, int compare)
{
    PyObject *result = NULL;
    if (check(data, digests, size)) {
        int failed;
        Py_ssize_t differs;
        Py_BEGIN_ALLOW_THREADS
        differs = run(self, data->buf, data->len / size, size, number, step, compare ? NULL : digests->buf,
                      compare ? digests->buf : NULL, &failed);
        Py_END_ALLOW_THREADS
        if (failed)
            PyErr_SetString(PyExc_RuntimeError, "OpenSSL failed to hash");
        else
            result = PyLong_FromSsize_t(differs);
    }
    PyBuffer_Release(data);
    PyBuffer_Release(digests);
    return result;
}

static PyObject *hasher_digest(PyObject *self, PyObject *args)
{
    Py_buffer data, out;
    Py_ssize_t size;
    unsigned long long number = 0, step = 0;
    if (!PyArg_ParseTuple(args, "y*nw*|KK", &data, &size, &out, &number, &step))
        return NULL;
    return finish((Hasher *)self, &data, &out, size, number, step, 0);
}

static PyObject *hasher_compare(PyObject *self, PyObject *args)
{
    Py_buffer data, wanted;
    Py_ssize_t size;
    unsigned long long number = 0, step = 0;
    if (!PyArg_ParseTuple(args, "y*ny*|KK", &data, &size, &wanted, &number, &step))
        return NULL;
    return finish((Hasher *)self, &data, &wanted, size, number, step, 1);
}

static int prepare(Hasher *self, const Py_buffer *prefix, int keyed)
{
    unsigned char pad[HMAC_BLOCK] = {0};
    if (!keyed) {
        self->inner = started(prefix->buf, (size_t)prefix->len);
        return self->inner != NULL;
    }
    memcpy(pad, prefix->buf, (size_t)prefix->len);
    for (int i = 0; i < HMAC_BLOCK; i++)
        pad[i] ^= 0x36;
    self->inner = started(pad, HMAC_BLOCK);
    for (int i = 0; i < HMAC_BLOCK; i++)
        pad[i] ^= 0x36 ^ 0x5c;
    self->outer = started(pad, HMAC_BLOCK);
    OPENSSL_cleanse(pad, HMAC_BLOCK);
    return self->inner != NULL && self->outer != NULL;
}

static PyObject *hasher_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"prefix", "keyed", NULL};
    Py_buffer prefix;
    int keyed = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*|p:Hasher", names, &prefix, &keyed))
        return NULL;
    if (keyed && (prefix.len < 1 || prefix.len > HMAC_BLOCK)) {
        PyErr_Format(PyExc_ValueError, "key is %zd bytes, wanted 1 to %d", prefix.len, HMAC_BLOCK);
        PyBuffer_Release(&prefix);
        return NULL;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Hasher *self = (Hasher *)allocate(type, 0);
    if (self != NULL && !prepare(self, &prefix, keyed)) {
        PyErr_SetString(PyExc_RuntimeError, "OpenSSL has no SHA-256");
        Py_DECREF((PyObject *)self);
        self = NULL;
    }
    PyBuffer_Release(&prefix);
    return (PyObject *)self;
}

static void hasher_dealloc(PyObject *object)
{
    Hasher *self = (Hasher *)object;
    PyTypeObject *type = Py_TYPE(object);
    EVP_MD_CTX_free(self->inner);
    EVP_MD_CTX_free(self->outer);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF((PyObject *)type);
}

static PyMethodDef hasher_methods[] = {
    {"digest", hasher_digest, METH_VARARGS,
     "digest(data, block_size, out, number=0, step=0): 32 bytes a block into out."},
    {"compare", hasher_compare, METH_VARARGS,
     "compare(data, block_size, wanted, number=0, step=0): index of the first block that differs, or -1."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot hasher_slots[] = {
    {Py_tp_new, hasher_new},
    {Py_tp_dealloc, hasher_dealloc},
    {Py_tp_methods, hasher_methods},
    {Py_tp_doc, "Hasher(prefix, keyed=False): SHA-256 after a salt, or dm-crypt's HMAC tags under a key."},
    {0, NULL},
};

static PyType_Spec hasher_spec = {"encfs._digest.Hasher", sizeof(Hasher), 0, Py_TPFLAGS_DEFAULT, hasher_slots};

static int module_exec(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &hasher_spec, NULL);
    if (type == NULL)
        return -1;
    int result = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return result;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, module_exec}, {0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_digest", "SHA-256 of many blocks in one call.", 0, NULL, module_slots,
};

PyMODINIT_FUNC PyInit__digest(void)
{
    return PyModuleDef_Init(&module);
}
