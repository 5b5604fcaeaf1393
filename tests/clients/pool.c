/* Looks a name up as a server's own resolver does (nginx, a connection pool): one connected socket to the
   nameserver, opened once and kept; all questions go over it, several at a time. Knows no search list.
   pool udp|tcp wait|ask NAME: until a line (or the end) comes on standard input it asks for other names, the
   first of them one that is answered late; with `ask` it has asked for NAME by then, too. Then it looks up
   NAME, A and AAAA at once, and over UDP asks again with the same ids after `timeout` of resolv.conf.
   Prints one line: NAME took=SECONDS ADDRESS... or error=TEXT. Status 1 if it failed. */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int tcp, server = -1, timeout_s = 5, attempts = 2;
static uint16_t next_id = 0x5000;
static unsigned char in[1 << 17];
static size_t held;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void read_conf(char *nameserver, size_t size)
{
	char line[8192], *at;
	FILE *file = fopen("/etc/resolv.conf", "r");
	while (file && fgets(line, sizeof line, file)) {
		if (!strncmp(line, "nameserver ", 11))
			snprintf(nameserver, size, "%.*s", (int)strcspn(line + 11, " \n"), line + 11);
		if (!strncmp(line, "options ", 8)) {
			if ((at = strstr(line, "timeout:")))
				timeout_s = atoi(at + 8);
			if ((at = strstr(line, "attempts:")))
				attempts = atoi(at + 9);
		}
	}
	if (file)
		fclose(file);
}

static int ask(uint16_t id, const char *name, uint16_t type)
{
	unsigned char message[512], *to = message + 2;
	const unsigned char head[12] = { id >> 8, id & 0xff, 1, 0, 0, 1 };
	memcpy(to, head, sizeof head);
	to += sizeof head;
	while (*name) {
		size_t length = strcspn(name, ".");
		*to++ = (unsigned char)length;
		memcpy(to, name, length);
		to += length;
		name += length + (name[length] == '.');
	}
	const unsigned char tail[5] = { 0, 0, (unsigned char)type, 0, 1 };
	memcpy(to, tail, sizeof tail);
	size_t length = (size_t)(to - message) + sizeof tail - 2;
	message[0] = (unsigned char)(length >> 8);
	message[1] = (unsigned char)length;
	return send(server, tcp ? message : message + 2, tcp ? length + 2 : length, MSG_NOSIGNAL) > 0;
}

/* One message that came, or 0; -1 when nothing can come any more. */
static ssize_t take(unsigned char *message, size_t size)
{
	ssize_t got = recv(server, in + held, sizeof in - held, MSG_DONTWAIT);
	if (got < 0 && errno != EAGAIN)
		return -1;
	if (!tcp) {
		if (got > 0)
			memcpy(message, in, (size_t)got < size ? (size_t)got : size);
		return got < 0 ? 0 : got;
	}
	if (got == 0)
		return -1;
	held += got < 0 ? 0 : (size_t)got;
	size_t length = held < 2 ? 0 : (size_t)in[0] << 8 | in[1];
	if (held < 2 || held < length + 2)
		return 0;
	memcpy(message, in + 2, length < size ? length : size);
	held -= length + 2;
	memmove(in, in + 2 + length, held);
	return (ssize_t)length;
}

static size_t skip_name(const unsigned char *m, size_t at, size_t length)
{
	while (at < length && m[at] && m[at] < 0xc0)
		at += m[at] + 1u;
	return at + (at < length && m[at] ? 2 : 1);
}

/* Appends the addresses in an answer. */
static void addresses(const unsigned char *m, size_t length, char *text, size_t size)
{
	size_t at = skip_name(m, 12, length) + 4;
	for (int left = m[6] << 8 | m[7]; left > 0; left--) {
		at = skip_name(m, at, length);
		if (at + 10 > length)
			return;
		int type = m[at] << 8 | m[at + 1];
		size_t data = (size_t)m[at + 8] << 8 | m[at + 9];
		char one[64] = "";
		if (at + 10 + data <= length && (type == 1 || type == 28))
			inet_ntop(type == 1 ? AF_INET : AF_INET6, m + at + 10, one, sizeof one);
		if (*one && strlen(text) + strlen(one) + 2 < size)
			strcat(strcat(text, " "), one);
		at += 10 + data;
	}
}

static int told(void)
{
	struct pollfd in_fd = { .fd = 0, .events = POLLIN };
	return poll(&in_fd, 1, 0) > 0;
}

int main(int argc, char **argv)
{
	static unsigned char message[1 << 16];
	char nameserver[64] = "", name[256], found[4096] = "";
	const char *error = NULL;
	if (argc != 4)
		return 2;
	tcp = !strcmp(argv[1], "tcp");
	int early = !strcmp(argv[2], "ask");
	snprintf(name, sizeof name, "%s", argv[3]);
	if (*name && name[strlen(name) - 1] == '.')
		name[strlen(name) - 1] = 0;
	read_conf(nameserver, sizeof nameserver);
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(53) };
	inet_pton(AF_INET, nameserver, &to.sin_addr);
	server = socket(AF_INET, tcp ? SOCK_STREAM : SOCK_DGRAM, 0);
	if (connect(server, (struct sockaddr *)&to, sizeof to)) {
		perror("connect");
		return 1;
	}

	uint16_t ids[2] = { 0, 0 };
	double started = 0, sent = 0, other_sent = 0;
	int open[2] = { 0, 0 }, done = 0, count = 0, tries = 0;
	uint16_t other = next_id++;
	ask(other, "early.slow.example", 1);
	int other_open = 1;
	other_sent = now();
	while (!done) {
		double t = now();
		/* Over TCP the server answers one after the other. */
		if (!started && t - other_sent > 0.05 && (!tcp || !other_open)) {
			char busy[64];
			snprintf(busy, sizeof busy, "busy-%d.sluggish.example", count++);
			other = next_id++;
			ask(other, busy, 1);
			other_open = 1;
			other_sent = t;
		}
		if (!started && (early || (told() && !(tcp && other_open)))) {
			started = sent = t;
			tries = 1;
			for (int i = 0; i < 2; i++) {
				ids[i] = next_id++;
				open[i] = 1;
				ask(ids[i], name, i ? 28 : 1);
			}
		}
		if (started && t - sent >= timeout_s && (tcp || tries < attempts) &&
		    t - started < timeout_s * attempts) {
			sent = t;
			tries++;
			for (int i = 0; i < 2 && !tcp; i++)
				if (open[i] && !ask(ids[i], name, i ? 28 : 1))
					error = strerror(errno);
			if (error)
				break;
		}
		if (started && t - started >= timeout_s * attempts) {
			error = "timed out";
			break;
		}
		struct pollfd fd = { .fd = server, .events = POLLIN };
		poll(&fd, 1, 10);
		ssize_t length;
		while ((length = take(message, sizeof message)) > 0) {
			uint16_t id = (uint16_t)(message[0] << 8 | message[1]);
			if (id == other)
				other_open = 0;
			for (int i = 0; i < 2; i++) {
				if (!open[i] || id != ids[i])
					continue;
				open[i] = 0;
				if (message[3] & 15)
					error = "server error";
				else
					addresses(message, (size_t)length, found, sizeof found);
			}
		}
		if (length < 0) {
			error = strerror(errno);
			break;
		}
		done = started && !open[0] && !open[1] && (early || !other_open);
	}
	double took = now() - started;
	while (early && !told())
		usleep(10000);
	printf("%s took=%.6f%s%s\n", argv[3], took, error ? " error=" : found, error ? error : "");
	return error != NULL;
}
