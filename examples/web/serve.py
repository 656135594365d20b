"""Serve this folder to a browser: python serve.py [--port 8000] [--certificate cert.pem --key key.pem --host 0.0.0.0].

Beside `python -m http.server`, it answers ranges, without which no served video can seek, sends the two headers that
isolate a page, without which WebAssembly has one thread, and speaks https, without which a phone gives a page neither
camera nor motion. It shows this folder to everyone who reaches the address.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import io
import os
import re
import ssl
import sys
from functools import partial
from pathlib import Path

TYPES = {".mjs": "text/javascript", ".wasm": "application/wasm"}  # some systems know neither


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files with ranges, and the headers of an isolated page."""

    protocol_version = "HTTP/1.1"
    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | TYPES

    def end_headers(self):
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def send_head(self):
        asked = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", self.headers.get("Range", ""))
        path = self.translate_path(self.path)
        if "\0" in path:
            return self.send_error(404)
        first, last = (int(text) if text else None for text in (asked.groups() if asked else ("", "")))
        backwards = first is not None and last is not None and first > last
        if (first, last) == (None, None) or backwards or not os.path.isfile(path):
            return super().send_head()
        size = os.path.getsize(path)
        if first is None:  # the last bytes
            first, last = max(size - last, 0), size - 1
        last = size - 1 if last is None else min(last, size - 1)
        if first > last:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        self.send_response(206)
        self.send_header("Content-Type", self.guess_type(path))
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        return Part(path, first, last + 1)


class Server(http.server.ThreadingHTTPServer):
    """A server that prints one line for a request that fails, such as http on an https port, or one that is dropped."""

    def handle_error(self, request, client_address):
        error = sys.exc_info()[1]
        print(f"{client_address[0]}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)


class Part(io.FileIO):
    """A file from one place to another."""

    def __init__(self, path: str, start: int, stop: int) -> None:
        super().__init__(path)
        self.seek(start)
        self.stop = stop

    def read(self, size: int = -1) -> bytes:
        left = self.stop - self.tell()
        return super().read(left if size < 0 else min(size, left))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for other devices of the network, too")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--certificate", metavar="PEM", help="speak https with this certificate")
    parser.add_argument("--key", metavar="PEM", help="its key, if it is in another file")
    a = parser.parse_args()
    if a.key and not a.certificate:
        parser.error("--key belongs to a --certificate")
    folder = Path(__file__).resolve().parent
    if not (folder / "node_modules" / "onnxruntime-web").is_dir():
        print("onnxruntime-web is missing; in this folder, run: npm ci --ignore-scripts", flush=True)
    context = None
    if a.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(a.certificate, a.key)
        except OSError as error:
            files = " with ".join(filter(None, (a.certificate, a.key)))
            sys.exit(f"{files}: not a certificate with its key in PEM files: {error}")
    try:
        server = Server((a.host, a.port), partial(Handler, directory=os.fspath(folder)))
    except (OSError, OverflowError) as error:
        sys.exit(f"cannot serve at {a.host}:{a.port}: {error}; choose another with --port or --host")
    with server:
        scheme = "http"
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
            scheme = "https"
        print(f"{scheme}://{a.host}:{server.server_port}/", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    main()
