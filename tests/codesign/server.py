"""A chat endpoint on this machine that answers as it is told, from the standard library alone."""

import json
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Endpoint:
    """What was asked, and what is answered: scripted replies, the last of them again and again.

    A reply is a function of the handler. ``requests`` holds path, headers, body and time of each request.
    """

    def __init__(self, *replies):
        self.replies, self.requests = list(replies), []
        self.url = ""

    def bodies(self):
        return [request["body"] for request in self.requests]


def chat(text, usage=(11, 5), **message):
    """A reply as a chat endpoint gives it."""
    body = {
        "id": "chat-1",
        "object": "chat.completion",
        "created": 0,
        "model": "fake",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text, **message}}
        ],
        "usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": 0},
    }
    return raw(json.dumps(body))


def status(code, message="no", headers=()):
    """A refusal as OpenAI words it."""
    return raw(json.dumps({"error": {"message": message, "type": "error", "param": None, "code": None}}), code, headers)


def raw(text, code=200, headers=()):
    body = text if isinstance(text, bytes) else text.encode()

    def reply(handler):
        handler.send_response(code)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.send_header("Connection", "close")  # said, so that no client sends its next request into the closing
        for name, value in headers:
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def slowly(seconds, then):
    """The same, late."""

    def reply(handler):
        time.sleep(seconds)
        then(handler)

    return reply


def dripping(pause, pieces):
    """A body that comes letter by letter."""

    def reply(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(pieces))
        handler.end_headers()
        for _ in range(pieces):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(pause)

    return reply


def endless(handler):
    """A body without an end, in chunks."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for _ in range(4096):
        handler.wfile.write(b"10000\r\n" + b"a" * 0x10000 + b"\r\n")


@contextmanager
def serving(*replies):
    """Run an endpoint for as long as the scope is open."""
    endpoint = Endpoint(*replies)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            endpoint.requests.append({"path": self.path, "headers": headers, "body": body, "time": time.monotonic()})
            reply = endpoint.replies.pop(0) if len(endpoint.replies) > 1 else endpoint.replies[0]
            self.close_connection = True
            with suppress(OSError):  # the client has hung up, as it should
                reply(self)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
