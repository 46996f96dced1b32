/* The host's fast path: take a test, fork it, wait for its end, answer, without touching a page of the interpreter.

   After a fork every page that host or test writes to is copied, and Python writes to hundreds of them only by counting
   references. What is here is what Python does in `zygote.py: run_test`, `home.py: become_program` and `watch.py`, call by call; where a
   test does not end by itself in time, or a message is no test, it returns, and Python decides. Without a C compiler
   zygote.py does all of it. */

#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <linux/filter.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NUM_FILES 3
#define LANDLOCK_RESTRICT_SELF 446
#define CLOSE_RANGE 436
#define PIDFD_OPEN 434

static const char TEST[] = "{\"do\": \"test\"}";

struct settings {
    int control, own_pids, uid, drop_rights, ruleset, cpu_limit_s, wait_ms;
    Py_buffer filter;
};

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static double seconds(struct timeval time) { return (double)time.tv_sec + 1e-6 * (double)time.tv_usec; }

/* As `become_program` in home.py: the same calls in the same order. */
static int become_program(const int *files, const struct settings *s) {
    struct rlimit cpu = {(rlim_t)s->cpu_limit_s, (rlim_t)s->cpu_limit_s};
    if (setsid() < 0) return -1;
    for (int target = 0; target < NUM_FILES; target++)
        if (dup2(files[target], target) < 0) return -1;
    if (setrlimit(RLIMIT_CPU, &cpu) < 0) return -1;
    if (s->uid > 0) {
        /* The system calls: there is one thread, and the library's wrappers would look for others. */
        if (syscall(SYS_setresgid, s->uid, s->uid, s->uid) < 0) return -1;
        if (syscall(SYS_setresuid, s->uid, s->uid, s->uid) < 0) return -1;
    } else if (s->drop_rights) {
        uint32_t header[2] = {0x20080522, 0}, none[6] = {0};
        if (syscall(SYS_capset, header, none) < 0) return -1;
    }
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0) return -1;
    if (s->ruleset >= 0 && syscall(LANDLOCK_RESTRICT_SELF, s->ruleset, 0) < 0) return -1;
    if (syscall(CLOSE_RANGE, NUM_FILES, ~0U, 0) < 0) return -1;
    if (s->filter.len > 0) {
        struct sock_fprog program = {(unsigned short)(s->filter.len / 8), s->filter.buf};
        if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) < 0) return -1;
    }
    return 0;
}

/* A message and its files; the length, 0 when the supervisor is gone. */
static ssize_t receive(int control, char *data, size_t size, int *files, int *num_files) {
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * 8)];
    } ancillary;
    struct iovec part = {data, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &ancillary,
                             .msg_controllen = sizeof ancillary};
    ssize_t length;
    do length = recvmsg(control, &message, MSG_CMSG_CLOEXEC);
    while (length < 0 && errno == EINTR);
    *num_files = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c != NULL; c = CMSG_NXTHDR(&message, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            size_t bytes = c->cmsg_len - CMSG_LEN(0);
            memcpy(files, CMSG_DATA(c), bytes);
            *num_files = (int)(bytes / sizeof(int));
        }
    return length < 0 ? 0 : length;
}

/* Has the process ended within the time? */
static int ended(pid_t pid, int wait_ms) {
    struct pollfd wait = {(int)syscall(PIDFD_OPEN, pid, 0), POLLIN, 0};
    int ready;
    if (wait.fd < 0) return 0;
    do ready = poll(&wait, 1, wait_ms);
    while (ready < 0 && errno == EINTR);
    close(wait.fd);
    return ready > 0;
}

static PyObject *message_and_files(const char *data, ssize_t length, const int *files, int num_files) {
    PyObject *list = PyList_New(num_files);
    if (list == NULL) return NULL;
    for (int i = 0; i < num_files; i++) PyList_SET_ITEM(list, i, PyLong_FromLong(files[i]));
    return Py_BuildValue("(y#N)", data, (Py_ssize_t)length, list);
}

PyDoc_STRVAR(serve_doc,
"serve(control, own_pids, uid, drop_rights, ruleset, filter, cpu_limit_s, wait_ms)\n"
"\n"
"Run tests until there is something to decide. Returns None in the child, ready to run the program; (pid, started_s)\n"
"in the host if a test has not ended within wait_ms; else (message, files) for a message that is no test.");

static PyObject *serve(PyObject *self, PyObject *args) {
    static char data[65536];
    struct settings s;
    int files[8], num_files;
    (void)self;
    if (!PyArg_ParseTuple(args, "iiipiy*ii", &s.control, &s.own_pids, &s.uid, &s.drop_rights, &s.ruleset, &s.filter,
                          &s.cpu_limit_s, &s.wait_ms))
        return NULL;
    PyObject *result = NULL;
    for (;;) {
        ssize_t length = receive(s.control, data, sizeof data, files, &num_files);
        if (length != (ssize_t)(sizeof TEST - 1) || memcmp(data, TEST, sizeof TEST - 1) != 0 || num_files != NUM_FILES) {
            result = message_and_files(data, length, files, num_files);
            break;
        }
        double started_s = now_s();
        if (s.own_pids >= 0 && (setns(s.own_pids, CLONE_NEWPID) < 0 || unshare(CLONE_NEWPID) < 0)) {
            PyErr_SetFromErrno(PyExc_OSError);
            break;
        }
        pid_t pid = fork();
        if (pid < 0) {
            PyErr_SetFromErrno(PyExc_OSError);
            break;
        }
        if (pid == 0) {
            if (become_program(files, &s) < 0) _exit(1);
            Py_RETURN_NONE;
        }
        for (int i = 0; i < NUM_FILES; i++) close(files[i]);
        if (!ended(pid, s.wait_ms)) {
            result = Py_BuildValue("(id)", (int)pid, started_s);
            break;
        }
        int status;
        struct rusage used;
        if (wait4(pid, &status, 0, &used) < 0) {
            PyErr_SetFromErrno(PyExc_OSError);
            break;
        }
        char answer[256];
        int size = snprintf(answer, sizeof answer,
                            "{\"status\": %d, \"cpu_s\": %.6f, \"wall_s\": %.6f, \"peak_bytes\": %ld, "
                            "\"timed_out\": false}",
                            status, seconds(used.ru_utime) + seconds(used.ru_stime), now_s() - started_s,
                            used.ru_maxrss * 1024L);
        if (send(s.control, answer, (size_t)size, MSG_NOSIGNAL) < 0) {
            result = message_and_files("", 0, files, 0);
            break;
        }
    }
    PyBuffer_Release(&s.filter);
    return result;
}

static PyMethodDef methods[] = {{"serve", serve, METH_VARARGS, serve_doc}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_spawn", NULL, -1, methods, NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit__spawn(void) { return PyModule_Create(&module); }
