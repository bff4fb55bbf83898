/* LD_PRELOAD shim: counts the fsyncs of databases, and makes every fsync slower.
 *
 * BENCH_FSYNC_FILE      a file of at least 8 bytes, shared by all processes: the count (uint64).
 * BENCH_FSYNC_DELAY_US  microseconds that each fsync and fdatasync takes longer.
 *
 * Counted are files whose name contains ".db", SQLite's database and its log, or "/pg_wal/", the log of Postgres.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static uint64_t *count;
static long delay_us;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("BENCH_FSYNC_FILE");
    const char *delay = getenv("BENCH_FSYNC_DELAY_US");
    delay_us = delay ? atol(delay) : 0;
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped != MAP_FAILED) count = mapped;
}

static void note(int fd) {
    char link[64], name[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = count ? readlink(link, name, sizeof name - 1) : -1;
    if (length > 0) {
        name[length] = 0;
        if (strstr(name, ".db") || strstr(name, "/pg_wal/")) __atomic_fetch_add(count, 1, __ATOMIC_RELAXED);
    }
    if (delay_us > 0) {
        struct timespec pause = {delay_us / 1000000, delay_us % 1000000 * 1000};
        nanosleep(&pause, NULL);
    }
}

int fsync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    note(fd);
    return real(fd);
}

int fdatasync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    note(fd);
    return real(fd);
}
