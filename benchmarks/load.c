/* Sends requests that were made beforehand over several kept connections, one under way on each, and prints the seconds that all
   of them took: what an endpoint can take of a client that costs next to nothing. For bench_bulk.py.

   load PORT CONNECTIONS FILE: the file has each request after its length, 4 bytes, little endian. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

struct connection {
    int socket;
    int have;
    char answer[65536];
};

static char *requests, *next, *end;

static void die(const char *why)
{
    fprintf(stderr, "load: %s\n", why);
    exit(1);
}

static void send_next(struct connection *to)
{
    uint32_t left;
    if (next >= end)
        return;
    memcpy(&left, next, 4);
    for (next += 4; left > 0;) {
        ssize_t written = write(to->socket, next, left);
        if (written <= 0)
            die("cannot write");
        next += written;
        left -= written;
    }
}

/* How many whole answers were read; their bytes are taken away. Every one must be a success. */
static int take_answers(struct connection *from)
{
    int count = 0;
    ssize_t got = read(from->socket, from->answer + from->have, sizeof from->answer - from->have - 1);
    if (got <= 0)
        die("the connection was closed");
    from->have += got;
    for (;;) {
        from->answer[from->have] = 0;
        char *head_end = strstr(from->answer, "\r\n\r\n");
        if (head_end == NULL)
            return count;
        char *length = strcasestr(from->answer, "\r\ncontent-length:");
        int whole = head_end + 4 - from->answer + (length != NULL && length < head_end ? atoi(length + 17) : 0);
        if (from->have < whole)
            return count;
        if (strncmp(from->answer, "HTTP/1.1 2", 10) != 0)
            die("refused");
        memmove(from->answer, from->answer + whole, from->have - whole);
        from->have -= whole;
        count++;
    }
}

int main(int count, char **words)
{
    if (count != 4)
        die("usage: load PORT CONNECTIONS FILE");
    FILE *file = fopen(words[3], "rb");
    if (file == NULL)
        die("cannot open the file");
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    requests = malloc(size);
    if (requests == NULL || fread(requests, 1, size, file) != (size_t)size)
        die("cannot read the file");
    next = requests;
    end = requests + size;
    int left = 0;
    for (char *at = requests; at < end; left++) {
        uint32_t length;
        memcpy(&length, at, 4);
        at += 4 + length;
    }
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(words[1])), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int connections = atoi(words[2]), poll = epoll_create1(0), yes = 1;
    struct connection *all = calloc(connections, sizeof *all);
    struct timespec began, ended;
    clock_gettime(CLOCK_MONOTONIC, &began);
    for (int i = 0; i < connections; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &all[i]};
        all[i].socket = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(all[i].socket, (struct sockaddr *)&to, sizeof to) != 0)
            die("cannot connect");
        setsockopt(all[i].socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        epoll_ctl(poll, EPOLL_CTL_ADD, all[i].socket, &event);
        send_next(&all[i]);
    }
    while (left > 0) {
        struct epoll_event events[64];
        int ready = epoll_wait(poll, events, 64, 30000);
        if (ready <= 0)
            die("no answer within 30 s");
        for (int i = 0; i < ready; i++)
            for (int answers = take_answers(events[i].data.ptr); answers > 0; answers--, left--)
                send_next(events[i].data.ptr);
    }
    clock_gettime(CLOCK_MONOTONIC, &ended);
    printf("%.6f\n", ended.tv_sec - began.tv_sec + (ended.tv_nsec - began.tv_nsec) / 1e9);
    return 0;
}
