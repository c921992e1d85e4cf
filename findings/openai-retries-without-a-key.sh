#!/bin/bash
# openai 3.57.0: one call whose answer is late reaches the server three times, and nothing in what
# is sent says that it is one call. The client makes an idempotency key for every POST ("ensure the
# idempotency key is reused between requests"), keeps it over its retries, and never sends it, since
# no header is named for it; the option idempotency_key of a client's post() is dropped alike. All
# that a server gets is x-stainless-retry-count: 0, 1, 2. The documentation of retries and time-outs
# says that requests are retried two times by default; of a key it says nothing. A server that
# counts requests counts such a call up to three times.
#
# Output seen:
#   APITimeoutError after 3 requests; retry counts: 0 1 2; keys: none none none
#   with idempotency_key="order-17": keys: none
#
# Ends with 1 when a key is sent, or a call is one request.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check 'openai==3.57.0'
cat > show.py <<'PYTHON'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai

seen = []
late = threading.Event()


class Late(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        seen.append((self.headers["x-stainless-retry-count"], self.headers["Idempotency-Key"]))
        if "late" in self.path:
            late.wait(30)
        body = json.dumps({"id": "x", "object": "chat.completion", "choices": []}).encode()
        try:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            pass  # the client is gone

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Late)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
messages = [{"role": "user", "content": "Hello"}]
raised = "no error"
try:
    client = openai.OpenAI(base_url=f"{url}/late", api_key="none", timeout=0.5)
    client.chat.completions.create(model="m", messages=messages)
except openai.APITimeoutError as error:
    raised = type(error).__name__
late.set()
counts = " ".join(str(count) for count, _ in seen)
keys = " ".join(str(key).lower() for _, key in seen)
print(f"{raised} after {len(seen)} requests; retry counts: {counts}; keys: {keys}")
first, seen = list(seen), []
client = openai.OpenAI(base_url=f"{url}/soon", api_key="none")
body = {"model": "m", "messages": messages}
client.post("/chat/completions", cast_to=object, body=body, options={"idempotency_key": "order-17"})
print(f'with idempotency_key="order-17": keys: {" ".join(str(key).lower() for _, key in seen)}')
same = counts == "0 1 2" and {key for _, key in first + seen} == {None}
raise SystemExit(0 if same else 1)
PYTHON
venv/bin/python show.py
