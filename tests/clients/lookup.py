"""Looks each name up with Python: `libc` asks the C library, `c-ares` asks pycares (getaddrinfo).

Prints one line a name: NAME took=SECONDS ADDRESS... or error=TEXT. Status 1 if any failed.
"""

import sys
import time


def libc(name):
    import socket

    try:
        found = socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise LookupError(error.strerror) from error
    return [address[0] for *_, address in found]


def c_ares():
    import socket
    import threading

    import pycares

    channel = pycares.Channel()

    def lookup(name):
        done = threading.Event()
        came = {}

        def callback(result, error):
            came.update(result=result, error=error)
            done.set()

        channel.getaddrinfo(name, 80, family=socket.AF_UNSPEC, type=socket.SOCK_STREAM, callback=callback)
        done.wait()
        if came["error"] is not None:
            raise LookupError(pycares.errno.strerror(came["error"]))
        found = [node.addr[0] for node in came["result"].nodes]
        return [one.decode() if isinstance(one, bytes) else one for one in found]

    return lookup


def main():
    how, *names = sys.argv[1:]
    lookup = c_ares() if how == "c-ares" else libc
    status = 0
    for name in names:
        started = time.monotonic()
        try:
            said = " ".join(lookup(name))
        except LookupError as error:
            said = f"error={error}"
            status = 1
        print(f"{name} took={time.monotonic() - started:.6f} {said}")
    sys.exit(status)


main()
