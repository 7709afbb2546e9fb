"""An OpenAI-compatible service on this machine, for tests."""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml


def chat(text, end="stop"):
    """The body of an answer."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": end}
    return json.dumps({"choices": [choice]}).encode()


class Service(ThreadingHTTPServer):
    """Answers with what ``answer(body)`` gives: a text, or a status with a body. Keeps paths,
    bodies and headers of all requests; runs as a context."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.headers = [], []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self):
        self.before = os.environ.get("no_proxy")
        os.environ["no_proxy"] = "127.0.0.1"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()
        if self.before is None:
            del os.environ["no_proxy"]
        else:
            os.environ["no_proxy"] = self.before

    def judge_file(self, folder, **settings):
        """The settings of a judge that asks this service, in a file."""
        told = {"url": self.url, "model": "tiny", "cache_dir": str(folder / "kept")}
        (folder / "judge.yaml").write_text(yaml.safe_dump({**told, **settings}))
        return str(folder / "judge.yaml")


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, body))
        self.server.headers.append(dict(self.headers))
        reply = self.server.answer(body)
        status, told = (200, chat(reply)) if isinstance(reply, str) else reply
        self.send_response(status)
        self.send_header("Content-Length", str(len(told)))
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, *_):
        pass
