/* Logs what a process asks of its files, in order, for tests of power loss: preloaded before libc (LD_PRELOAD).
 *
 * Watched are the files below IO_LOG_ROOT. Each record of the file IO_LOG is: kind (one letter), length of the path,
 * offset, length of the data (three 64-bit numbers), the path, the data.
 *   w  bytes written at an offset     t  truncated to `offset`     s  synced     u  unlinked
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int sink = -1;

static void note(char kind, const char *path, uint64_t offset, const void *data, uint64_t length) {
    const char *root = getenv("IO_LOG_ROOT"), *log = getenv("IO_LOG");
    if (!root || !log || strncmp(path, root, strlen(root)) != 0) return;
    if (sink < 0) sink = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    uint64_t head[3] = {strlen(path), offset, length};
    struct iovec parts[4] = {
        {&kind, 1}, {head, sizeof head}, {(void *)path, head[0]}, {(void *)data, length}};
    syscall(SYS_writev, sink, parts, 4); /* one call: whole records, in order */
}

static void note_fd(char kind, int fd, uint64_t offset, const void *data, uint64_t length) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return;
    path[n] = 0;
    note(kind, path, offset, data, length);
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    REAL(pwrite);
    ssize_t done = real(fd, data, n, at);
    if (done > 0) note_fd('w', fd, (uint64_t)at, data, (uint64_t)done);
    return done;
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
    REAL(pwrite64);
    ssize_t done = real(fd, data, n, at);
    if (done > 0) note_fd('w', fd, (uint64_t)at, data, (uint64_t)done);
    return done;
}

ssize_t write(int fd, const void *data, size_t n) {
    REAL(write);
    off_t at = lseek(fd, 0, SEEK_CUR);
    ssize_t done = real(fd, data, n);
    if (done > 0 && at >= 0) note_fd('w', fd, (uint64_t)at, data, (uint64_t)done);
    return done;
}

int ftruncate(int fd, off_t to) {
    REAL(ftruncate);
    int done = real(fd, to);
    if (!done) note_fd('t', fd, (uint64_t)to, "", 0);
    return done;
}

int ftruncate64(int fd, off64_t to) {
    REAL(ftruncate64);
    int done = real(fd, to);
    if (!done) note_fd('t', fd, (uint64_t)to, "", 0);
    return done;
}

int fsync(int fd) {
    REAL(fsync);
    int done = real(fd);
    if (!done) note_fd('s', fd, 0, "", 0);
    return done;
}

int fdatasync(int fd) {
    REAL(fdatasync);
    int done = real(fd);
    if (!done) note_fd('s', fd, 0, "", 0);
    return done;
}

int unlink(const char *path) {
    REAL(unlink);
    int done = real(path);
    if (!done) note('u', path, 0, "", 0);
    return done;
}
