/* AES-XTS over many sectors in one call, through OpenSSL's EVP interface.
 *
 * Why: the Python library makes a new cipher context for every sector, which costs more than the sector.
 * Here one context is keyed once; each sector only sets its tweak. The GIL is released for the whole call.
 *
 * A context belongs to one call at a time. A second call at the same moment works on a duplicate, so callers
 * need no lock. OpenSSL wipes the key schedule when a context is freed. Another key waits for nobody: it is
 * refused while a context is in use (a duplicate has a schedule of its own and may go on).
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <openssl/evp.h>

#include <stdint.h>

typedef struct {
    PyObject_HEAD
    EVP_CIPHER_CTX *context[2]; /* by direction: 0 decrypts, 1 encrypts */
    char busy[2];               /* guarded by the GIL */
} Xts;

static void put_u64(unsigned char *to, uint64_t value)
{
    for (int i = 0; i < 8; i++)
        to[i] = (unsigned char)(value >> (8 * i));
}

/* One pass over the sectors; needs no Python state. Returns 0, or the number of the sector that failed plus 1. */
static Py_ssize_t run(EVP_CIPHER_CTX *context, unsigned char *out, const unsigned char *in, Py_ssize_t length,
                      int sector_size, uint64_t tweak, uint64_t step)
{
    unsigned char iv[16] = {0};
    for (Py_ssize_t done = 0; done < length; done += sector_size, tweak += step) {
        int written = 0;
        put_u64(iv, tweak);
        if (EVP_CipherInit_ex(context, NULL, NULL, NULL, iv, -1) != 1 ||
            EVP_CipherUpdate(context, out + done, &written, in + done, sector_size) != 1 ||
            written != sector_size)
            return done / sector_size + 1;
    }
    return 0;
}

static EVP_CIPHER_CTX *keyed(const unsigned char *key, Py_ssize_t size, int encrypt)
{
    const EVP_CIPHER *cipher = size == 64 ? EVP_aes_256_xts() : EVP_aes_128_xts();
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    if (context != NULL && EVP_CipherInit_ex(context, cipher, NULL, key, NULL, encrypt) != 1) {
        EVP_CIPHER_CTX_free(context);
        return NULL;
    }
    return context;
}

/* Key both directions, or leave everything as it is and set an exception. Returns 1 when keyed. */
static int set_key(Xts *self, const Py_buffer *key)
{
    if (key->len != 32 && key->len != 64) {
        PyErr_Format(PyExc_ValueError, "key is %zd bytes, wanted 32 or 64", key->len);
        return 0;
    }
    if (self->busy[0] || self->busy[1]) {
        PyErr_SetString(PyExc_RuntimeError, "a call is using the old key");
        return 0;
    }
    EVP_CIPHER_CTX *fresh[2] = {keyed(key->buf, key->len, 0), keyed(key->buf, key->len, 1)};
    if (fresh[0] == NULL || fresh[1] == NULL) {
        EVP_CIPHER_CTX_free(fresh[0]);
        EVP_CIPHER_CTX_free(fresh[1]);
        PyErr_SetString(PyExc_ValueError, "OpenSSL refused the key (are its two halves equal?)");
        return 0;
    }
    for (int i = 0; i < 2; i++) {
        EVP_CIPHER_CTX_free(self->context[i]);
        self->context[i] = fresh[i];
    }
    return 1;
}

static PyObject *xts_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"key", NULL};
    Py_buffer key;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*:Xts", names, &key))
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Xts *self = (Xts *)allocate(type, 0);
    if (self != NULL && !set_key(self, &key)) {
        Py_DECREF((PyObject *)self);
        self = NULL;
    }
    PyBuffer_Release(&key);
    return (PyObject *)self;
}

static PyObject *xts_rekey(PyObject *self, PyObject *args)
{
    Py_buffer key;
    if (!PyArg_ParseTuple(args, "y*:rekey", &key))
        return NULL;
    int done = set_key((Xts *)self, &key);
    PyBuffer_Release(&key);
    return done ? Py_NewRef(Py_None) : NULL;
}

static void xts_dealloc(PyObject *object)
{
    Xts *self = (Xts *)object;
    PyTypeObject *type = Py_TYPE(object);
    EVP_CIPHER_CTX_free(self->context[0]);
    EVP_CIPHER_CTX_free(self->context[1]);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF((PyObject *)type);
}

static int check(Py_buffer *in, Py_buffer *out, int sector_size)
{
    if (sector_size < 16 || sector_size > (1 << 20) || sector_size % 16) {
        PyErr_Format(PyExc_ValueError, "sector size is %d, wanted a multiple of 16 up to 1 MiB", sector_size);
        return 0;
    }
    if (in->len % sector_size || in->len != out->len) {
        PyErr_Format(PyExc_ValueError, "%zd bytes into %zd, wanted equal whole sectors of %d", in->len, out->len,
                     sector_size);
        return 0;
    }
    return 1;
}

static PyObject *crypt_sectors(Xts *self, PyObject *args, int encrypt)
{
    Py_buffer in, out;
    int sector_size;
    unsigned long long tweak, step;
    if (!PyArg_ParseTuple(args, "y*w*iKK", &in, &out, &sector_size, &tweak, &step))
        return NULL;
    PyObject *result = NULL;
    if (check(&in, &out, sector_size)) {
        int own = !self->busy[encrypt];
        EVP_CIPHER_CTX *context = self->context[encrypt];
        if (own) {
            self->busy[encrypt] = 1;
        } else {
            EVP_CIPHER_CTX *copy = EVP_CIPHER_CTX_new();
            if (copy != NULL && EVP_CIPHER_CTX_copy(copy, context) != 1) {
                EVP_CIPHER_CTX_free(copy);
                copy = NULL;
            }
            context = copy;
        }
        Py_ssize_t failed = 1;
        if (context != NULL) {
            Py_BEGIN_ALLOW_THREADS
            failed = run(context, out.buf, in.buf, in.len, sector_size, tweak, step);
            Py_END_ALLOW_THREADS
        }
        if (own)
            self->busy[encrypt] = 0;
        else
            EVP_CIPHER_CTX_free(context);
        if (failed)
            PyErr_Format(PyExc_RuntimeError, "OpenSSL failed at sector %zd of the request", failed - 1);
        else
            result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&in);
    PyBuffer_Release(&out);
    return result;
}

static PyObject *xts_encrypt(PyObject *self, PyObject *args)
{
    return crypt_sectors((Xts *)self, args, 1);
}

static PyObject *xts_decrypt(PyObject *self, PyObject *args)
{
    return crypt_sectors((Xts *)self, args, 0);
}

static PyMethodDef xts_methods[] = {
    {"encrypt", xts_encrypt, METH_VARARGS, "encrypt(data, out, sector_size, tweak, step): out may be data."},
    {"decrypt", xts_decrypt, METH_VARARGS, "decrypt(data, out, sector_size, tweak, step): out may be data."},
    {"rekey", xts_rekey, METH_VARARGS, "rekey(key): use another key from now on; the old schedule is wiped."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot xts_slots[] = {
    {Py_tp_new, xts_new},
    {Py_tp_dealloc, xts_dealloc},
    {Py_tp_methods, xts_methods},
    {Py_tp_doc, "Xts(key): AES-XTS with one key of 32 or 64 bytes."},
    {0, NULL},
};

static PyType_Spec xts_spec = {"encfs._xts.Xts", sizeof(Xts), 0, Py_TPFLAGS_DEFAULT, xts_slots};

static int module_exec(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &xts_spec, NULL);
    if (type == NULL)
        return -1;
    int result = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return result;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, module_exec}, {0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_xts", "AES-XTS over many sectors in one call.", 0, NULL, module_slots,
};

PyMODINIT_FUNC PyInit__xts(void)
{
    return PyModuleDef_Init(&module);
}
