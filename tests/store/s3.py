"""A server that speaks as much S3 as the store uses, on 127.0.0.1, and fails on demand."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

BUCKET = "bucket"


def nothing(method: str, key: str) -> int | None:
    """Let a request through."""


class Server(ThreadingHTTPServer):
    """The objects of one bucket. `before` and `after` a request is done they may return another status.

    A status of 0 cuts the connection.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self.before: Callable[[str, str], int | None] = nothing
        self.after: Callable[[str, str], int | None] = nothing
        self.overwrites = False  # as old servers do, which know no conditions
        self.heard: Callable[[str, object], object] = lambda method, headers: None  # of each PUT


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args) -> None:
        pass

    def _serve(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        self.query = parse_qs(url.query, keep_blank_values=True)
        key = unquote(url.path).removeprefix(f"/{BUCKET}").removeprefix("/")
        status = self.server.before(self.command, key)
        if status is None:
            with self.server.lock:
                answer = self._answer(key)
            status = self.server.after(self.command, key)
        if status is None:
            self._reply(*answer)
        elif status == 0:
            self.close_connection = True
        else:
            self._reply(status, b"<Error><Code>Refused</Code><Message>refused</Message></Error>", {})

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _serve  # noqa: N815

    def _reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _answer(self, key: str) -> tuple:
        """Return status, body and headers."""
        if self.command == "PUT":
            return self._put(key)
        if self.command == "POST":
            return self._delete_many()
        if self.command == "DELETE":
            self.server.objects.pop(key, None)
            return (204,)
        if "list-type" in self.query:
            return self._list()
        return self._get(self.server.objects[key]) if key in self.server.objects else (404,)

    def _put(self, key: str) -> tuple:
        self.server.heard(self.command, self.headers)
        is_conditional = self.headers.get("If-None-Match") == "*" and not self.server.overwrites
        if is_conditional and key in self.server.objects:
            return (412,)
        self.server.objects[key] = self.body
        return 200, b"", {"ETag": _etag(self.body)}

    def _get(self, data: bytes) -> tuple:
        headers = {"ETag": _etag(data), "Last-Modified": "Fri, 27 Nov 2026 00:00:00 GMT"}
        wanted = self.headers.get("Range")
        if not wanted:
            return 200, data, headers
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, len(data) - int(last))
        stop = min(int(last) + 1, len(data)) if first and last else len(data)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        return 206, data[start:stop], headers

    def _list(self) -> tuple:
        prefix, delimiter = (self.query.get(name, [""])[0] for name in ("prefix", "delimiter"))
        items, folders = [], set()
        for key, data in sorted(self.server.objects.items()):
            if not key.startswith(prefix):
                continue
            head, slash, _ = key[len(prefix) :].partition(delimiter or "\0")
            if slash:
                folders.add(f"{prefix}{head}{slash}")
            else:
                items.append(
                    f"<Contents><Key>{escape(key)}</Key><Size>{len(data)}</Size><ETag>{_etag(data)}</ETag>"
                    f"<LastModified>2026-11-27T00:00:00.000Z</LastModified></Contents>"
                )
        items += [f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in sorted(folders)]
        text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(items)}</ListBucketResult>"
        return 200, text.encode()

    def _delete_many(self) -> tuple:
        nodes = ElementTree.fromstring(self.body).iter()
        keys = [node.text or "" for node in nodes if node.tag.endswith("Key")]
        for key in keys:
            self.server.objects.pop(key, None)
        gone = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        return 200, f"<DeleteResult>{gone}</DeleteResult>".encode()


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


@contextmanager
def serving() -> Iterator[tuple[Server, dict[str, str]]]:
    """Within: the server, and the environment that leads to it."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "us-east-1",
    }
    try:
        yield server, environment
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
