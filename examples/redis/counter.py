"""Counts visits in Redis, knowing nothing of a mesh.

Usage: counter.py PORT, with the address of Redis in REDIS_ADDRESS. One
connection to Redis is kept; while there is none, every visit tries anew and is
answered with 500.
"""

import os
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Redis:
    """As much of a Redis client as counting takes."""

    def __init__(self, address):
        host, _, port = address.rpartition(":")
        self.address = (host, int(port))
        self.lock = threading.Lock()
        self.stream = self.replies = None

    def incr(self, key):
        """Adds one to the number at `key` and returns it."""
        with self.lock:
            try:
                if self.stream is None:
                    self.stream = socket.create_connection(self.address, timeout=2)
                    self.replies = self.stream.makefile("rb")
                return self.ask(b"INCR", key.encode())
            except OSError:
                self.close()
                raise

    def ask(self, *words):
        parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
        self.stream.sendall(b"*%d\r\n" % len(words) + b"".join(parts))
        reply = self.replies.readline()
        if not (reply.startswith(b":") and reply.endswith(b"\r\n")):
            raise ConnectionError(f"not a number: {reply!r}")
        return int(reply[1:])

    def close(self):
        if self.stream is not None:
            self.stream.close()
            self.replies.close()
            self.stream = self.replies = None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Buffered, so that head and body leave together.
    wbufsize = -1

    def do_GET(self):
        if self.path == "/healthz":
            self.answer(200, "well\n")
        elif self.path == "/about":
            self.answer(200, "counts visits\n")
        elif self.path == "/visit":
            try:
                visits = redis.incr("visits")
            except OSError as error:
                self.log_error("Redis: %s", error)
                self.answer(500, "try again later\n")
            else:
                self.answer(200, f"visit {visits}\n")
        else:
            self.answer(404, "try /visit\n")

    def answer(self, status, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


redis = Redis(os.environ["REDIS_ADDRESS"])
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
