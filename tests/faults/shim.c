/* Preloaded library that counts a process's writing calls below one folder and makes one of them fail.
 *
 * gcc -shared -fPIC -O1 -o shim.so shim.c -ldl; LD_PRELOAD=shim.so. Nothing happens before fault_arm is called.
 * Streams of the C library (fopen, fwrite, fclose), as NumPy's tofile uses, count at their own calls, since the writes
 * inside of the C library are not seen. Writes through a mapping are not seen either.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT = 0, KILL = 1, ONCE = 2, FROM = 3 };

static char folder[PATH_MAX];
static size_t length;
static long place = -1, calls;
static int action, error_number;

/* Below `path`, calls are counted from 0; at call `n` the process is killed, or `error` is returned once or from then on. */
void fault_arm(const char *path, long n, int what, int error) {
  length = strlen(path);
  memcpy(folder, path, length + 1);
  place = n;
  action = what;
  error_number = error;
  calls = 0;
}

long fault_calls(void) { return calls; }

static int inside(const char *path) {
  char whole[PATH_MAX];
  if (!length || !path) return 0;
  if (path[0] != '/') {
    if (!getcwd(whole, sizeof whole - NAME_MAX - 2) || strlen(path) > NAME_MAX) return 0;
    strcat(strcat(whole, "/"), path);
    path = whole;
  }
  return !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

static int inside_handle(int handle) {
  char link[64], path[PATH_MAX];
  if (!length || handle < 0) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
  ssize_t size = readlink(link, path, sizeof path - 1);
  if (size < 0) return 0;
  path[size] = 0;
  return inside(path);
}

/* Return 1 if `path`, relative to an open folder, lies inside. */
static int inside_at(int at, const char *path) {
  return path && (path[0] == '/' || at == AT_FDCWD ? inside(path) : inside_handle(at));
}

/* Return 1 if the call must fail. */
static int fails(int counted) {
  if (!counted) return 0;
  long now = calls++;
  if (action == KILL && now == place) kill(getpid(), SIGKILL);
  if ((action == ONCE && now == place) || (action == FROM && now >= place)) {
    errno = error_number;
    return 1;
  }
  return 0;
}

#define NEXT(name) static __typeof__(name) *next; if (!next) next = dlsym(RTLD_NEXT, #name)
#define WRITES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT))
/* A function of the C library that is called as before unless `counted` lies inside and its turn has come. */
#define CALL(type, failed, name, parameters, arguments, counted) \
  type name parameters { NEXT(name); return fails(counted) ? failed : next arguments; }
#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    NEXT(name); va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
    return WRITES(flags) && fails(inside(path)) ? -1 : next(path, flags, mode); \
  }
#define OPENAT(name) \
  int name(int at, const char *path, int flags, ...) { \
    NEXT(name); va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
    return WRITES(flags) && fails(inside_at(at, path)) ? -1 : next(at, path, flags, mode); \
  }
#define STREAM(name) \
  FILE *name(const char *path, const char *mode) { \
    NEXT(name); \
    return mode[strspn(mode, "rbem")] && fails(inside(path)) ? NULL : next(path, mode); \
  }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
STREAM(fopen)
STREAM(fopen64)

#define HANDLE inside_handle(handle)
CALL(ssize_t, -1, write, (int handle, const void *data, size_t size), (handle, data, size), HANDLE)
CALL(ssize_t, -1, writev, (int handle, const struct iovec *parts, int count), (handle, parts, count), HANDLE)
CALL(ssize_t, -1, pwrite, (int handle, const void *data, size_t size, off_t at), (handle, data, size, at), HANDLE)
CALL(ssize_t, -1, pwrite64, (int handle, const void *data, size_t size, off64_t at), (handle, data, size, at), HANDLE)
CALL(ssize_t, -1, pwritev, (int handle, const struct iovec *parts, int count, off_t at), (handle, parts, count, at), HANDLE)
CALL(ssize_t, -1, sendfile, (int handle, int from, off_t *at, size_t size), (handle, from, at, size), HANDLE)
CALL(ssize_t, -1, sendfile64, (int handle, int from, off64_t *at, size_t size), (handle, from, at, size), HANDLE)
CALL(ssize_t, -1, copy_file_range, (int from, off64_t *begin, int handle, off64_t *at, size_t size, unsigned int flags),
     (from, begin, handle, at, size, flags), HANDLE)
CALL(int, -1, fsync, (int handle), (handle), HANDLE)
CALL(int, -1, fdatasync, (int handle), (handle), HANDLE)
CALL(int, -1, ftruncate, (int handle, off_t size), (handle, size), HANDLE)
CALL(int, -1, ftruncate64, (int handle, off64_t size), (handle, size), HANDLE)
CALL(int, error_number, posix_fallocate, (int handle, off_t at, off_t size), (handle, at, size), HANDLE)
CALL(int, error_number, posix_fallocate64, (int handle, off64_t at, off64_t size), (handle, at, size), HANDLE)
CALL(size_t, 0, fwrite, (const void *data, size_t size, size_t count, FILE *file), (data, size, count, file), inside_handle(fileno(file)))
CALL(int, EOF, fflush, (FILE *file), (file), file && inside_handle(fileno(file)))
CALL(int, -1, rename, (const char *from, const char *to), (from, to), inside(to))
CALL(int, -1, renameat, (int at, const char *from, int at_new, const char *to), (at, from, at_new, to), inside_at(at_new, to))
CALL(int, -1, unlink, (const char *path), (path), inside(path))
CALL(int, -1, unlinkat, (int at, const char *path, int flags), (at, path, flags), inside_at(at, path))
CALL(int, -1, rmdir, (const char *path), (path), inside(path))
CALL(int, -1, link, (const char *from, const char *to), (from, to), inside(to))
CALL(int, -1, linkat, (int at, const char *from, int at_new, const char *to, int flags), (at, from, at_new, to, flags), inside_at(at_new, to))
CALL(int, -1, symlink, (const char *from, const char *to), (from, to), inside(to))
CALL(int, -1, truncate, (const char *path, off_t size), (path, size), inside(path))
CALL(int, -1, truncate64, (const char *path, off64_t size), (path, size), inside(path))
CALL(int, -1, mkdir, (const char *path, mode_t mode), (path, mode), inside(path))

int fclose(FILE *file) {
  NEXT(fclose);
  int failed = fails(inside_handle(fileno(file)));
  int closed = next(file);
  if (failed) errno = error_number;
  return failed ? EOF : closed;
}
