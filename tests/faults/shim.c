/* Preloaded library that counts a process's writing calls below one folder and makes one of them fail.
 *
 * gcc -shared -fPIC -O1 -o shim.so shim.c -ldl; LD_PRELOAD=shim.so. Nothing happens before fault_arm is called.
 * Calls inside the C library itself, such as those of fwrite, are not seen.
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
  if (!length) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
  ssize_t size = readlink(link, path, sizeof path - 1);
  if (size < 0) return 0;
  path[size] = 0;
  return inside(path);
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
#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    NEXT(name); va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
    return WRITES(flags) && fails(inside(path)) ? -1 : next(path, flags, mode); \
  }
#define OPENAT(name) \
  int name(int at, const char *path, int flags, ...) { \
    NEXT(name); va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
    return WRITES(flags) && fails(inside(path)) ? -1 : next(at, path, flags, mode); \
  }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int handle, const void *data, size_t size) {
  NEXT(write);
  return fails(inside_handle(handle)) ? -1 : next(handle, data, size);
}
ssize_t writev(int handle, const struct iovec *parts, int count) {
  NEXT(writev);
  return fails(inside_handle(handle)) ? -1 : next(handle, parts, count);
}
ssize_t pwrite64(int handle, const void *data, size_t size, off64_t at) {
  NEXT(pwrite64);
  return fails(inside_handle(handle)) ? -1 : next(handle, data, size, at);
}
int fsync(int handle) {
  NEXT(fsync);
  return fails(inside_handle(handle)) ? -1 : next(handle);
}
int ftruncate64(int handle, off64_t size) {
  NEXT(ftruncate64);
  return fails(inside_handle(handle)) ? -1 : next(handle, size);
}
int rename(const char *from, const char *to) {
  NEXT(rename);
  return fails(inside(to)) ? -1 : next(from, to);
}
int unlink(const char *path) {
  NEXT(unlink);
  return fails(inside(path)) ? -1 : next(path);
}
int link(const char *from, const char *to) {
  NEXT(link);
  return fails(inside(to)) ? -1 : next(from, to);
}
int linkat(int at, const char *from, int at_new, const char *to, int flags) {
  NEXT(linkat);
  return fails(inside(to)) ? -1 : next(at, from, at_new, to, flags);
}
int mkdir(const char *path, mode_t mode) {
  NEXT(mkdir);
  return fails(inside(path)) ? -1 : next(path, mode);
}
