/* What every module of compiled kernels begins with. */
#pragma once
#include <Python.h>

/* The module, with the best instruction set that this machine has in use; `use` is its function of that name. */
static PyObject *module_at_its_best(struct PyModuleDef *definition, PyObject *(*use)(PyObject *, PyObject *)) {
    PyObject *made = PyModule_Create(definition);
    if (!made) return NULL;
    PyObject *none = PyTuple_New(0), *name = none ? use(NULL, none) : NULL;
    Py_XDECREF(none);
    if (!name) {
        Py_DECREF(made);
        return NULL;
    }
    Py_DECREF(name);
    return made;
}
