"""A server that stands before an object store, in a process of its own: it hands requests on and counts them, or refuses them for a while."""

import http.client
import multiprocessing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONTEXT = multiprocessing.get_context("spawn")
START = {"after": 0, "refuse": 0, "status": 503, "asked": 0, "refused": 0}


class Between:
    """After `after` more requests it answers the next `refuse` with `status` instead of asking the store, or hangs up if that is 0."""

    def __init__(self, store: str):
        self.store = store
        self._values = {name: CONTEXT.Value("q", start) for name, start in START.items()}
        here, there = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=serve, args=(store, self._values, there), daemon=True)
        self._process.start()
        self.address = f"http://127.0.0.1:{here.recv()}"

    def begin(self) -> None:
        """Hand everything on, and count from zero."""
        for name, start in START.items():
            self._values[name].value = start

    def away(self, requests: int, status: int = 503, after: int = 0) -> None:
        """Refuse so many requests, once so many have been handed on."""
        self._values["status"].value, self._values["after"].value, self._values["refuse"].value = status, after, requests

    @property
    def asked(self) -> int:
        """Requests that came, those that were refused among them."""
        return self._values["asked"].value

    @property
    def refused(self) -> int:
        """Requests that were refused."""
        return self._values["refused"].value

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def serve(store: str, values: dict, pipe) -> None:
    """What the process does."""
    class Hand(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_) -> None:
            pass

        def is_refused(self) -> bool:
            with values["refuse"].get_lock():
                values["asked"].value += 1
                if values["after"].value:
                    values["after"].value -= 1
                    return False
                refused = values["refuse"].value > 0
                values["refuse"].value -= refused
                values["refused"].value += refused
                return refused

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":  # as S3's client sends a part of an upload
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            del self.headers["Transfer-Encoding"]
            pieces = []
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(pieces)

        def answer(self) -> None:
            body = self.body()
            if self.is_refused():
                self.close_connection = True
                if values["status"].value:
                    self.send_response(values["status"].value)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                return
            inner = http.client.HTTPConnection(store.removeprefix("http://"))
            inner.request(self.command, self.path, body, dict(self.headers))
            answer = inner.getresponse()
            data = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "date", "server", "content-length"):
                    self.send_header(name, value)
            self.send_header("Content-Length", answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hand)
    pipe.send(server.server_port)
    server.serve_forever()
