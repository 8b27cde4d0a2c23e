#!/usr/bin/env python3
"""A webhook's receiver: verifies signatures, and misbehaves as CONTROL says.

   webhook_receiver.py LOG CONTROL SECRET [CERTIFICATE KEY]

CONTROL is a file, read anew for each request: "ok", "500", "400 TEXT" (events
with that text only), "slow", "close", "retry" (503 with Retry-After).
Each event that was taken is a line of LOG: its number, its id and whether the
signature is right.
"""
import hashlib
import hmac
import http.server
import json
import ssl
import sys
import threading
import time

log = open(sys.argv[1], 'a', buffering=1)
secret = open(sys.argv[3], 'rb').read().strip()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args):
        pass

    def answer(self, status, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), value)
        self.send_header('Content-Length', '0')
        self.end_headers()

    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        control = open(sys.argv[2]).read().strip()
        stamp = self.headers['Replica-Ctl-Timestamp']
        expected = 'v1=' + hmac.new(secret, stamp.encode() + b'.' + body, hashlib.sha256).hexdigest()
        signature = self.headers['Replica-Ctl-Signature']
        verdict = 'unsigned' if signature is None else 'bad'
        if signature is not None and hmac.compare_digest(expected, signature) and abs(time.time() - int(stamp)) < 60:
            verdict = 'good'
        event = json.loads(body.decode('utf-8'))
        if self.headers['Content-Type'] != 'application/json':
            verdict = 'type'
        if control == '500':
            self.answer(500)
        elif control == 'retry':
            self.answer(503, Retry_After='2')
        elif control == 'slow':
            time.sleep(20)
        elif control == 'close':
            self.close_connection = True
        elif control.startswith('400') and control[4:] in event['message']:
            self.answer(400)
        else:
            log.write(json.dumps([event['event'], self.headers['Replica-Ctl-Id'], verdict, event['message'], event]) + '\n')
            self.answer(204)


server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
if len(sys.argv) > 4:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[4], sys.argv[5])
    server.socket = context.wrap_socket(server.socket, server_side=True)
print('http', server.server_address[1])
print('ready', flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
