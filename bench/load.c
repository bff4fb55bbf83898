/* Sends prepared HTTP requests, each exactly once, over a number of kept connections, and measures.
 *
 *   load PORT CONNECTIONS FILE      FILE: for each request 4 bytes of length (big endian) and its bytes
 *
 * Prints one JSON object: requests answered, seconds, p50 and p99 in ms, answers that were not 200,
 * connections that broke (their request is sent again), processor seconds of this process.
 * One thread and one epoll: it takes little of the processor from the service on the same machine.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 65536 };

struct connection {
    int fd;
    size_t request, sent, have;
    int busy;
    double begun;
    char in[BUFFER + 1];
};

static struct { const char *bytes; uint32_t length; } *requests;
static double *took;
static size_t total, next_request, answered, refused, broken;
static int poller, port;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void open_connection(struct connection *c) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to)) fail("connect");
    int yes = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event)) fail("epoll_ctl");
    c->sent = c->have = 0;
}

/* Requests are small: the socket's buffer holds one. */
static void send_request(struct connection *c) {
    ssize_t n = send(c->fd, requests[c->request].bytes, requests[c->request].length, MSG_NOSIGNAL);
    c->sent = n > 0 ? (size_t)n : 0;
}

static void send_next(struct connection *c) {
    c->busy = next_request < total;
    if (!c->busy) return;
    c->request = next_request++;
    c->begun = now();
    c->have = 0;
    send_request(c);
}

static void reopen(struct connection *c) {
    close(c->fd);
    broken++;
    open_connection(c);
    if (c->busy) send_request(c);
}

/* The whole answer is there: its length, else 0. */
static size_t whole(struct connection *c) {
    c->in[c->have] = 0;
    char *end = strstr(c->in, "\r\n\r\n");
    if (!end) return 0;
    char *field = strcasestr(c->in, "\r\ncontent-length:");
    size_t body = field && field < end ? strtoul(field + 17, NULL, 10) : 0;
    size_t length = (size_t)(end + 4 - c->in) + body;
    return c->have >= length ? length : 0;
}

static void readable(struct connection *c) {
    ssize_t n = recv(c->fd, c->in + c->have, BUFFER - c->have, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        reopen(c);
        return;
    }
    c->have += (size_t)n;
    if (!whole(c)) return;
    took[answered++] = now() - c->begun;
    if (strncmp(c->in + 8, " 200", 4)) {
        if (!refused++) fprintf(stderr, "first answer that is not 200: %s\n", c->in);
    }
    send_next(c);
}

static void load(const char *path) {
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info)) fail(path);
    const unsigned char *at = mmap(NULL, info.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (at == MAP_FAILED) fail("mmap");
    const unsigned char *end = at + info.st_size;
    size_t room = 1024;
    requests = malloc(room * sizeof *requests);
    while (at < end) {
        if (total == room) requests = realloc(requests, (room *= 2) * sizeof *requests);
        uint32_t length;
        memcpy(&length, at, 4);
        requests[total].length = ntohl(length);
        requests[total++].bytes = (const char *)at + 4;
        at += 4 + ntohl(length);
    }
    took = malloc((total + 1) * sizeof *took);
}

static int ascending(const void *a, const void *b) {
    double d = *(const double *)a - *(const double *)b;
    return (d > 0) - (d < 0);
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: load PORT CONNECTIONS FILE\n");
        return 2;
    }
    port = atoi(argv[1]);
    int connections = atoi(argv[2]);
    load(argv[3]);
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct connection *all = calloc(connections, sizeof *all);
    for (int i = 0; i < connections; i++) open_connection(&all[i]);
    double begun = now();
    for (int i = 0; i < connections; i++) send_next(&all[i]);
    struct epoll_event events[256];
    while (answered < total) {
        int n = epoll_wait(poller, events, 256, 30000);
        if (n == 0) {
            fprintf(stderr, "no answer for 30 s; %zu of %zu answered\n", answered, total);
            return 1;
        }
        for (int i = 0; i < n; i++) readable(events[i].data.ptr);
    }
    double seconds = now() - begun;
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    qsort(took, answered, sizeof *took, ascending);
    printf("{\"requests\": %zu, \"seconds\": %.6f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"refused\": %zu, "
           "\"broken\": %zu, \"cpu_s\": %.3f}\n",
           answered, seconds, took[answered / 2] * 1e3, took[answered * 99 / 100] * 1e3, refused, broken,
           used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
    return 0;
}
