"""A server that sends exactly the bytes that a test gives it."""

import socket
import threading

from taskruns.arize.client import Timeouts
from tests.paths import CANCEL_ANSWER

SAMPLE = CANCEL_ANSWER.read_bytes()
QUICK = Timeouts(connect=0.5, read=0.3)
SLACK = 2.0  # seconds that a busy machine may take on top


def answer(status=b"200 OK", body=SAMPLE, headers=b""):
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n%s\r\n%s" % (status, len(body), headers, body)


class Server:
    """Calls `serve(connection, request)` for each request head it reads."""

    def __init__(self, serve, tls=None):
        self.serve, self.tls, self.requests, self.connections = serve, tls, [], 0
        self.over = threading.Event()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while not self.over.is_set():
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection):
        try:
            with self.tls.wrap_socket(connection, server_side=True) if self.tls else connection as stream:
                while head := self.head(stream):
                    self.requests.append(head)
                    if self.serve(stream, head) == "close":
                        return
        except OSError:
            return  # the client disconnected, as several tests intend

    def head(self, stream):
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            more = stream.recv(65536)
            if not more:
                return b""
            data += more
        return data

    def close(self):
        self.over.set()
        self.socket.close()


def say(data):
    return lambda stream, _: stream.sendall(data)
