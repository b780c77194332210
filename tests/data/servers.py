"""A local server of files that counts what is asked for, and can stall or hang up."""

import hashlib
import http.server
import re

from vdm.data.downloads import Original


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        content = server.files[self.path]
        asked = (
            re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) if server.ranges else None
        )
        start = int(asked[1]) if asked else 0
        server.starts.append((self.path, start))
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = min(len(content), server.stop_at)
        self.wfile.write(content[start:end])
        self.wfile.flush()
        if end < len(content) and server.stall:
            server.stalled.set()
            server.resume.wait(30)

    def log_message(self, *args):
        pass


def published(server, files):
    """The Original records of files on the server."""
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    server.files |= {f"/{name}": content for name, content in files.items()}
    return tuple(
        Original(address + name, len(content), hashlib.sha256(content).hexdigest())
        for name, content in files.items()
    )
