/* Looks each name up with the C library's getaddrinfo: glibc with gcc, musl with musl-gcc.
   Prints one line a name: NAME took=SECONDS ADDRESS... or error=TEXT. Status 1 if any failed. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	int failed = 0;
	for (int i = 1; i < argc; i++) {
		struct addrinfo hints, *found = NULL;
		memset(&hints, 0, sizeof hints);
		hints.ai_socktype = SOCK_STREAM;
		double started = now();
		int error = getaddrinfo(argv[i], "80", &hints, &found);
		printf("%s took=%.6f", argv[i], now() - started);
		if (error) {
			printf(" error=%s\n", gai_strerror(error));
			failed = 1;
			continue;
		}
		for (struct addrinfo *a = found; a; a = a->ai_next) {
			char text[64] = "";
			getnameinfo(a->ai_addr, a->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST);
			printf(" %s", text);
		}
		printf("\n");
		freeaddrinfo(found);
	}
	return failed;
}
