"""What a proxy does with CONNECT, for `server(...)`: opens a tunnel to a local port, refuses, hangs, drips or cuts."""

import socket
import threading
from contextlib import suppress

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


def tunnel_to(port):
    """To this local port, whatever host was asked for: as if the proxy had resolved the name."""

    def serve(stream, _):
        with socket.create_connection(("127.0.0.1", port)) as target:
            stream.sendall(ESTABLISHED)
            back = threading.Thread(target=pump, args=(target, stream), daemon=True)
            back.start()
            pump(stream, target)
            back.join(5)
        return "close"

    return serve


def pump(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass  # one side is gone
    finally:
        for end in (source, sink):
            shut(end)


def shut(end):
    with suppress(OSError):  # already closed
        end.shutdown(socket.SHUT_RDWR)


def refuse(status):
    def serve(stream, _):
        stream.sendall(b"HTTP/1.1 %d No\r\nProxy-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nno" % status)
        return "close"

    return serve


def drip(start, over):
    """Send a byte now and then, without end."""

    def serve(stream, _):
        stream.sendall(start)
        while not over.wait(0.05):
            stream.sendall(b"x")

    return serve


def then_cut(data):
    def serve(stream, _):
        stream.sendall(data)
        return "close"

    return serve
