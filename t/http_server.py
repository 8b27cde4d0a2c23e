#!/usr/bin/env python3
"""An HTTP server that misbehaves as it is asked to, by the path.

   http_server.py LOG [NAME=CERTIFICATE,KEY[,CLIENT-CA]]...

Listens on free ports of 127.0.0.1: "plain" without TLS, "proxy" as a proxy
that knows CONNECT, and one with TLS for each NAME.  Prints "NAME PORT" lines,
then "ready".  Every request is written to LOG as a line of JSON.
"""
import collections
import json
import socket
import ssl
import sys
import threading
import time
from urllib.parse import urlsplit, parse_qs

log_lock = threading.Lock()
log = open(sys.argv[1], 'a', buffering=1)
counts = collections.Counter()


def note(**what):
    with log_lock:
        log.write(json.dumps(what) + '\n')


class Gone(Exception):
    pass


class Connection:
    def __init__(self, name, sock, number):
        self.name, self.sock, self.number = name, sock, number
        self.buffer = b''

    def until(self, mark):
        while mark not in self.buffer:
            self.more()
        head, self.buffer = self.buffer.split(mark, 1)
        return head

    def more(self):
        got = self.sock.recv(65536)
        if not got:
            raise Gone()
        self.buffer += got

    def request(self):
        head = self.until(b'\r\n\r\n').decode('latin-1').split('\r\n')
        self.method, self.target, _ = head[0].split(' ')
        self.headers = {}
        for line in head[1:]:
            name, value = line.split(':', 1)
            self.headers[name.lower()] = value.strip()
        length = int(self.headers.get('content-length', 0))
        while len(self.buffer) < length:
            self.more()
        self.body, self.buffer = self.buffer[:length], self.buffer[length:]
        if self.method != 'CONNECT':
            parts = urlsplit(self.target)
            self.path = parts.path
            self.query = {k: v[0] for k, v in parse_qs(parts.query).items()}

    def send(self, data):
        self.sock.sendall(data)

    def answer(self, status, body=b'', headers=()):
        if isinstance(body, str):
            body = body.encode()
        head = ['HTTP/1.1 %d X' % status, 'Content-Length: %d' % len(body), 'X-Request-Id: id-%d' % self.number]
        self.send('\r\n'.join(head + list(headers) + ['', '']).encode() + body)

    def seconds(self):
        return float(self.query.get('s', 5))


def ok(c):
    c.answer(200, 'hello')


def echo(c):
    c.answer(200, json.dumps({'method': c.method, 'path': c.path, 'headers': c.headers, 'on': c.name,
                              'body': c.body.decode('latin-1'), 'connection': c.number}),
             ['Content-Type: application/json', 'Date: Sun, 22 Nov 2026 01:02:03 GMT'])


def status(c):
    extra = ['Retry-After: ' + c.query['after']] if 'after' in c.query else []
    c.answer(int(c.query['n']), c.query.get('body', '<html>not what you think</html>'), extra)


def flaky(c):
    """The first n requests with this key have the status, the others 200."""
    counts[c.query['key']] += 1
    if counts[c.query['key']] <= int(c.query['n']):
        status_ = c.query.get('status', '503')
        if status_ == 'close':
            raise Gone()
        c.answer(int(status_), c.query.get('body', ''), ['Retry-After: ' + c.query.get('after', '0')])
    else:
        c.answer(200, str(counts[c.query['key']]))


def redirect(c):
    c.answer(302, '', ['Location: ' + c.query['to']])


def hang(c):
    time.sleep(c.seconds())
    c.answer(200, 'late')


def slow_head(c):
    for byte in b'HTTP/1.1 200 OK\r\nX-Slow: ' + b'x' * 10000:
        c.send(bytes([byte]))
        time.sleep(0.05)


def slow_body(c):
    c.send(b'HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n')
    for _ in range(10000):
        c.send(b'x')
        time.sleep(0.05)


def big(c):
    n = int(c.query['n'])
    if c.query.get('chunked'):
        c.send(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')
        while n > 0:
            piece = b'y' * min(n, 65536)
            c.send(b'%x\r\n%s\r\n' % (len(piece), piece))
            n -= len(piece)
        c.send(b'0\r\n\r\n')
    else:
        c.answer(200, b'y' * n)


def endless_head(c):
    c.send(b'HTTP/1.1 200 OK\r\n')
    while True:
        c.send(b'X-More: ' + b'z' * 1000 + b'\r\n')


def cut(c):
    c.send(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this')
    raise Gone()


def close(c):
    raise Gone()


def garbage(c):
    c.send(b'220 mail.example.com ESMTP\r\n' * 5)
    raise Gone()


def stale(c):
    """Answers, and closes as if the connection had idled too long."""
    c.answer(200, 'fine')
    time.sleep(0.02)
    raise Gone()


def file(c):
    with open(c.query['path'], 'rb') as content:
        c.answer(200, content.read())


def interim(c):
    c.send(b'HTTP/1.1 102 Processing\r\nX-Early: yes\r\n\r\n')
    c.answer(200, 'after all')


def nul(c):
    c.answer(200, b'a\0b\xff')


PATHS = {'/ok': ok, '/echo': echo, '/status': status, '/flaky': flaky, '/redirect': redirect, '/hang': hang,
         '/slow-head': slow_head, '/slow-body': slow_body, '/big': big, '/endless-head': endless_head,
         '/cut': cut, '/close': close, '/garbage': garbage, '/stale': stale, '/interim': interim, '/file': file, '/nul': nul}


def pump(a, b):
    try:
        while True:
            data = a.recv(65536)
            if not data:
                break
            b.sendall(data)
    except OSError:
        pass
    finally:
        for s in (a, b):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def proxy(c):
    host, port = c.target.rsplit(':', 1)
    other = socket.create_connection((host, int(port)))
    c.send(b'HTTP/1.1 200 Connection established\r\n\r\n')
    threading.Thread(target=pump, args=(other, c.sock), daemon=True).start()
    pump(c.sock, other)


def serve(name, sock, number, context):
    try:
        if context:
            sock = context.wrap_socket(sock, server_side=True)
        c = Connection(name, sock, number)
        while True:
            c.request()
            note(on=name, connection=number, method=c.method, target=c.target, headers=c.headers,
                 body=c.body.decode('latin-1'))
            if c.method == 'CONNECT':
                proxy(c)
                return
            PATHS[c.path](c)
    except (Gone, OSError, ValueError, KeyError):
        pass
    finally:
        sock.close()


def listen(name, context):
    listener = socket.create_server(('127.0.0.1', 0), backlog=200)
    print(name, listener.getsockname()[1], flush=True)

    def accept():
        number = 0
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            number += 1
            threading.Thread(target=serve, args=(name, sock, number, context), daemon=True).start()
    threading.Thread(target=accept, daemon=True).start()


listen('plain', None)
listen('proxy', None)
for argument in sys.argv[2:]:
    name, files = argument.split('=')
    files = files.split(',')
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files[0], files[1])
    if len(files) > 2:
        context.load_verify_locations(files[2])
        context.verify_mode = ssl.CERT_REQUIRED
    listen(name, context)
# a port that accepts and never says a word
mute = socket.create_server(('127.0.0.1', 0), backlog=200)
print('mute', mute.getsockname()[1], flush=True)
print('ready', flush=True)
# until the test's end of our standard input is closed
sys.stdin.read()
