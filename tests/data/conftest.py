"""The server from which tests download."""

import http.server
import threading

import pytest

from tests.data.servers import Handler


@pytest.fixture
def server():
    """Serves `files` {path: bytes}; after `stop_at` bytes of a file it stalls or hangs up."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.files, running.starts = {}, []
        running.ranges, running.stall, running.stop_at = True, False, 1 << 40
        running.stalled, running.resume = threading.Event(), threading.Event()
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.resume.set()
        running.shutdown()
