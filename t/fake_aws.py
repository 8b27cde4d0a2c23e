#!/usr/bin/env python3
"""A fake of Amazon RDS, CloudWatch and STS, for the tests.

Speaks the query protocol as botocore's own service models describe it, and
verifies each request's signature by botocore's signer.  Strict: an unknown,
missing or ill-formed parameter, a wrong version, scope or clock is refused.
Nasty on demand: see Faults.  What it serves lives in fake_aws_state.py.

    fake_aws.py --ready FILE [--tls CERT KEY] [--region REGION ...]

Listens on loopback: one plain port for each region, one TLS port if there is a
certificate, and one for control.  FILE gets a JSON object with the ports once
all of them listen.  The control port takes POST of a JSON object with "do"
(see Control) and answers with one.
"""

import argparse
import datetime
import json
import os
import re
import socket
import ssl
import sys
import threading
import time
import urllib.parse
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape

import botocore.loaders
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from fake_aws_state import ApiError, State  # noqa: E402

UTC = datetime.timezone.utc
CONTENT_TYPE = 'application/x-www-form-urlencoded; charset=utf-8'
CLOCK_WINDOW = 15 * 60


def iso(moment):
    return moment.astimezone(UTC).strftime('%Y-%m-%dT%H:%M:%S.') + '%03dZ' % (moment.microsecond // 1000)


class Query:
    """Parameters as sent, made a tree by the operation's input shape."""

    def __init__(self, pairs):
        self.left = {}
        for key, value in pairs:
            if key in self.left:
                raise ApiError('MalformedInput', 400, 'parameter %s is given twice' % key)
            self.left[key] = value

    def structure(self, shape, prefix=''):
        result = {}
        for name, member in shape.members.items():
            value = self.value(member, prefix + member.serialization.get('name', name))
            if value is not None:
                result[name] = value
        return result

    def value(self, shape, key):
        if shape.type_name == 'structure':
            if not any(k.startswith(key + '.') for k in self.left):
                return None
            return self.structure(shape, key + '.')
        if shape.type_name == 'list':
            return self.list(shape, key)
        if key not in self.left:
            return None
        return self.scalar(shape, key, self.left.pop(key))

    def list(self, shape, key):
        if self.left.get(key) == '':
            del self.left[key]
            return []
        if not shape.serialization.get('flattened'):
            key += '.' + shape.member.serialization.get('name', 'member')
        items = []
        while True:
            item = self.value(shape.member, '%s.%d' % (key, len(items) + 1))
            if item is None:
                return items or None
            items.append(item)

    @staticmethod
    def scalar(shape, key, text):
        kind = shape.type_name

        def bad():
            raise ApiError('InvalidParameterValue', 400, 'Invalid value for %s: %s' % (key, text))

        if kind == 'boolean':
            if text not in ('true', 'false'):
                bad()
            return text == 'true'
        if kind in ('integer', 'long'):
            if not re.fullmatch(r'-?\d+', text):
                bad()
            return int(text)
        if kind in ('double', 'float'):
            try:
                return float(text)
            except ValueError:
                bad()
        if kind == 'timestamp':
            if not re.fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z', text):
                bad()
            return datetime.datetime.fromisoformat(text[:-1] + '+00:00')
        if getattr(shape, 'enum', None) and text not in shape.enum:
            bad()
        pattern = shape.metadata.get('pattern')
        if pattern and key.startswith('MetricDataQueries') and not re.match(pattern, text):
            bad()
        return text


class Answer:
    """A value made XML by the operation's output shape."""

    def __init__(self, operation, value, request_id):
        name = operation.name
        space = operation.service_model.metadata['xmlNamespace']
        self.out = ['<%sResponse xmlns="%s">\n' % (name, space)]
        if operation.output_shape is not None:
            wrapper = operation.output_shape.serialization.get('resultWrapper', name + 'Result')
            self.structure(operation.output_shape, value, wrapper, 1)
        self.out.append('  <ResponseMetadata>\n    <RequestId>%s</RequestId>\n  </ResponseMetadata>\n</%sResponse>\n'
                        % (request_id, name))
        self.text = ''.join(self.out)

    def put(self, shape, value, tag, depth):
        if value is None:
            return
        pad = '  ' * depth
        if shape.type_name == 'structure':
            self.structure(shape, value, tag, depth)
        elif shape.type_name == 'list':
            item = shape.member.serialization.get('name', 'member')
            if not value:
                self.out.append('%s<%s/>\n' % (pad, tag))
                return
            self.out.append('%s<%s>\n' % (pad, tag))
            for v in value:
                self.put(shape.member, v, item, depth + 1)
            self.out.append('%s</%s>\n' % (pad, tag))
        else:
            if shape.type_name == 'boolean':
                value = 'true' if value else 'false'
            elif shape.type_name == 'timestamp':
                value = iso(value)
            self.out.append('%s<%s>%s</%s>\n' % (pad, tag, escape(str(value)), tag))

    def structure(self, shape, value, tag, depth):
        pad = '  ' * depth
        unknown = set(value) - set(shape.members)
        self.out.append('%s<%s>\n' % (pad, tag))
        for name, member in shape.members.items():
            if name in value:
                self.put(member, value[name], member.serialization.get('name', name), depth + 1)
        self.out.append('%s</%s>\n' % (pad, tag))
        # members that this botocore does not know yet cannot be sent
        if unknown - State.NEWER:
            raise AssertionError('no member %s in %s' % (unknown, shape.name))


class Faults:
    """What goes wrong, and when.

    A fault is {"kind": ..., "action": "CreateDBCluster" or "*", "times": 1,
    "skip": 0} and what its kind needs:

      before the work:
        drop        the connection is closed, nothing is done
        error       an API error: "code", "status", "message", "headers"
        html        a load balancer's page with "status"
        redirect    "status" 307 to "location"
        slow        answers after "seconds"
        hang        never answers
      after the work:
        lost        closes the connection instead of answering
        cut         sends half of the body
        headers     sends half of the headers
        truncated   half of the XML, of the length that it says
        garbage     bytes that are no XML
        huge        a body of "bytes"
        entity      an external entity, and a parameter entity over http
        laughs      nested entities
        empty       200 with no body
        wrong       well-formed XML of something else
        stale       answers well, then closes the kept connection
        trickle     one byte in a while
    """

    BEFORE = ('drop', 'error', 'html', 'redirect', 'slow', 'hang')

    def __init__(self):
        self.list = []

    def take(self, action, before):
        for fault in self.list:
            if (fault['kind'] in self.BEFORE) != before or fault.get('action', '*') not in ('*', action):
                continue
            if fault.get('skip', 0) > 0:
                fault['skip'] -= 1
                continue
            if fault.get('times', 1) <= 0:
                continue
            fault['times'] = fault.get('times', 1) - 1
            fault['taken'] = fault.get('taken', 0) + 1
            return fault
        return None


class Fake:
    def __init__(self, regions):
        loader = botocore.loaders.Loader()
        self.services = {}
        for name, signing in (('rds', 'rds'), ('cloudwatch', 'monitoring'), ('sts', 'sts')):
            model = ServiceModel(loader.load_service_model(name, 'service-2'), name)
            self.services[signing] = model
        self.lock = threading.RLock()
        self.faults = Faults()
        self.state = State(regions)
        self.requests = []
        self.skew = 0.0
        self.connections = 0
        self.gets = []         # what nobody should ask for

    def now(self):
        return datetime.datetime.now(UTC) + datetime.timedelta(seconds=self.skew)

    def operation(self, pairs):
        """The operation that a body asks for: Action and Version come first."""
        if len(pairs) < 2 or pairs[0][0] != 'Action' or pairs[1][0] != 'Version':
            raise ApiError('MissingParameter', 400, 'Action and Version must come first')
        action, version = pairs[0][1], pairs[1][1]
        for signing, model in self.services.items():
            if model.metadata['apiVersion'] == version:
                if action not in model.operation_names:
                    raise ApiError('InvalidAction', 400, 'Could not find operation %s' % action)
                return signing, model.operation_model(action)
        raise ApiError('InvalidAction', 400, 'Could not find operation %s for version %s' % (action, version))

    def verify(self, handler, body, signing, region):
        """Raises what AWS raises of a bad signature; returns the caller."""
        header = handler.headers.get('Authorization')
        if header is None:
            raise ApiError('MissingAuthenticationToken', 403, 'Request is missing Authentication Token')
        match = re.fullmatch(r'AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, ?'
                             r'SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})', header)
        if match is None:
            raise ApiError('IncompleteSignature', 400, 'Authorization header is not well formed')
        key, day, scope_region, scope_service, signed, signature = match.groups()
        signed = signed.split(';')
        if signed != sorted(signed) or 'host' not in signed:
            raise ApiError('SignatureDoesNotMatch', 403, "'Host' must be a signed header; they must be sorted")
        stamps = handler.headers.get_all('X-Amz-Date') or []
        if len(stamps) != 1 or 'x-amz-date' not in signed:
            raise ApiError('IncompleteSignature', 400, 'X-Amz-Date must be sent once, and signed')
        if scope_region != region:
            raise ApiError('SignatureDoesNotMatch', 403,
                           "Credential should be scoped to a valid region, not '%s'." % scope_region)
        if scope_service != signing:
            raise ApiError('SignatureDoesNotMatch', 403,
                           "Credential should be scoped to correct service: '%s'." % signing)
        try:
            stamp = datetime.datetime.strptime(stamps[0], '%Y%m%dT%H%M%SZ').replace(tzinfo=UTC)
        except ValueError:
            raise ApiError('IncompleteSignature', 400, 'X-Amz-Date is not a date')
        if stamp.strftime('%Y%m%d') != day:
            raise ApiError('SignatureDoesNotMatch', 403, 'Date in Credential scope does not match')
        known = self.state.credentials.get(key)
        if known is None:
            raise ApiError('InvalidClientTokenId', 403, 'The security token included in the request is invalid.')
        if known.get('token'):
            if 'x-amz-security-token' not in signed or handler.headers.get('X-Amz-Security-Token') != known['token']:
                raise ApiError('InvalidClientTokenId', 403, 'The security token included in the request is invalid')
        elif handler.headers.get('X-Amz-Security-Token') is not None:
            raise ApiError('InvalidClientTokenId', 403, 'The security token included in the request is invalid')

        request = AWSRequest('POST', 'http://%s/' % handler.headers['Host'], data=body)
        for name in signed:
            values = handler.headers.get_all(name)
            if values is None:
                raise ApiError('SignatureDoesNotMatch', 403, 'signed header %s is not there' % name)
            for value in values:
                request.headers.add_header(name, value)
        request.context['timestamp'] = stamps[0]
        auth = SigV4Auth(Credentials(key, known['secret']), signing, region)
        canonical = auth.canonical_request(request)
        if auth.signature(auth.string_to_sign(request, canonical), request) != signature:
            raise ApiError('SignatureDoesNotMatch', 403,
                           'The request signature we calculated does not match the signature you provided.')
        if abs((self.now() - stamp).total_seconds()) > CLOCK_WINDOW:
            raise ApiError('SignatureDoesNotMatch', 403, 'Signature expired: %s is now earlier than %s (%s - 15 min.)' % (
                stamps[0], self.now().strftime('%Y%m%dT%H%M%SZ'), self.now().strftime('%Y%m%dT%H%M%SZ')))
        if known.get('expires') and time.time() > known['expires']:
            raise ApiError('ExpiredToken', 403, 'The security token included in the request is expired')
        return known

    def work(self, handler, body, region, record):
        if handler.headers.get('Content-Type', '').lower() != CONTENT_TYPE:
            raise ApiError('MalformedInput', 400, 'unexpected Content-Type')
        text = body.decode('ascii', 'replace')
        if not re.fullmatch(r'([A-Za-z0-9._~=&-]|%[0-9A-F]{2})*', text):
            raise ApiError('MalformedInput', 400, 'the body is not percent-encoded as it should be')
        pairs = []
        for part in text.split('&'):
            key, equals, value = part.partition('=')
            if not equals:
                raise ApiError('MalformedInput', 400, 'a parameter without =')
            pairs.append((urllib.parse.unquote(key, errors='strict'), urllib.parse.unquote(value, errors='strict')))
        signing, operation = self.operation(pairs)
        if operation.auth_type == 'none':
            if handler.headers.get('Authorization'):
                raise ApiError('IncompleteSignature', 400, 'this operation is not signed')
            caller = {}
        else:
            caller = self.verify(handler, body, signing, region)
        action = operation.name
        if action in caller.get('denied', []):
            raise ApiError('AccessDenied', 403,
                           'User: %s is not authorized to perform: %s:%s on resource: * because no identity-based '
                           'policy allows the %s:%s action' % (caller['arn'], operation.service_model.endpoint_prefix
                                                               if signing != 'monitoring' else 'cloudwatch', action,
                                                               signing if signing != 'monitoring' else 'cloudwatch', action))
        query = Query(pairs[2:])
        params = query.structure(operation.input_shape) if operation.input_shape is not None else {}
        if query.left:
            raise ApiError('MalformedInput', 400, 'Unknown parameter: %s' % ', '.join(sorted(query.left)))
        if operation.input_shape is not None:
            report = ParamValidator().validate(params, operation.input_shape)
            if report.has_errors():
                text = report.generate_report()
                raise ApiError('MissingParameter' if 'Missing required' in text else 'ValidationError', 400, text)
        self.state.tick(self.now())
        method = getattr(self.state, action, None)
        if method is None:
            raise ApiError('InvalidAction', 400, 'the fake does not know %s' % action)
        self.state.region = region
        self.state.caller = caller
        return Answer(operation, method(**params) or {}, record['id']).text


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    server_version = 'fake'
    sys_version = ''

    def log_message(self, *args):
        pass

    def setup(self):
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.server.fake.lock:
            self.server.fake.connections += 1

    def date_time_string(self, timestamp=None):
        return self.server.fake.now().strftime('%a, %d %b %Y %H:%M:%S GMT')

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except (ConnectionError, ssl.SSLError, TimeoutError):
            self.close_connection = True

    def do_GET(self):
        self.server.fake.gets.append(self.path)
        self.send(404, b'<html><body>not here</body></html>', 'text/html')

    do_PUT = do_GET

    def do_POST(self):
        fake = self.server.fake
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        match = re.match(rb'Action=(\w+)', body)
        action = match.group(1).decode() if match else '?'
        record = {'id': str(uuid.uuid4()), 'action': action, 'at': time.time(), 'region': self.server.region,
                  'connection': self.client_address[1], 'host': self.headers.get('Host'),
                  'params': dict(urllib.parse.parse_qsl(body.decode('ascii', 'replace'), keep_blank_values=True))}
        with fake.lock:
            fake.requests.append(record)
            del fake.requests[:-5000]
            fault = fake.faults.take(action, True)
        if fault and self.fault_before(fault, record):
            return
        with fake.lock:
            try:
                answer, status = fake.work(self, body, self.server.region, record), 200
            except ApiError as error:
                answer, status = self.error(error, record), error.status
            record['status'] = status
            fault = fake.faults.take(action, False)
        if fault:
            self.fault_after(fault, answer, status, record)
        else:
            self.send(status, answer.encode(), 'text/xml', record)

    def error(self, error, record):
        record['code'] = error.code
        return ('<ErrorResponse xmlns="http://rds.amazonaws.com/doc/2014-10-31/">\n  <Error>\n    <Type>%s</Type>\n'
                '    <Code>%s</Code>\n    <Message>%s</Message>\n  </Error>\n  <RequestId>%s</RequestId>\n'
                '</ErrorResponse>\n' % ('Sender' if error.status < 500 else 'Receiver', error.code,
                                        escape(error.message), record['id']))

    def send(self, status, body, kind, record=None, headers=None):
        self.send_response(status)
        if record:
            self.send_header('x-amzn-RequestId', record['id'])
        self.send_header('Content-Type', kind)
        self.send_header('Content-Length', str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def hang_up(self):
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def fault_before(self, fault, record):
        kind = fault['kind']
        record['fault'] = kind
        if kind == 'slow':
            time.sleep(fault['seconds'])
            return False
        if kind == 'hang':
            time.sleep(fault.get('seconds', 600))
            self.hang_up()
        elif kind == 'drop':
            self.hang_up()
        elif kind == 'error':
            error = ApiError(fault['code'], fault.get('status', 400), fault.get('message', 'injected'))
            record['status'] = error.status
            self.send(error.status, self.error(error, record).encode(), 'text/xml', record, fault.get('headers'))
        elif kind == 'html':
            self.send(fault.get('status', 503), b'<html><head><title>503</title></head><body><hr>busy & sorry</body></html>',
                      'text/html', None, fault.get('headers'))
        elif kind == 'redirect':
            self.send(fault.get('status', 307), b'', 'text/html', None, {'Location': fault['location']})
        return True

    def fault_after(self, fault, answer, status, record):
        kind = fault['kind']
        body = answer.encode()
        record['fault'] = kind
        if kind == 'lost':
            self.hang_up()
        elif kind in ('cut', 'headers'):
            self.send_response(status)
            self.send_header('Content-Type', 'text/xml')
            if kind == 'cut':
                self.send_header('Content-Length', str(len(body)))
                self.end_headers()
                self.wfile.write(body[:len(body) // 2])
            else:
                self.flush_headers()
            self.wfile.flush()
            self.hang_up()
        elif kind == 'truncated':
            self.send(status, body[:len(body) // 2], 'text/xml', record)
        elif kind == 'garbage':
            self.send(status, bytes(range(256)) * 4, 'text/xml', record)
        elif kind == 'empty':
            self.send(status, b'', 'text/xml', record)
        elif kind == 'wrong':
            self.send(status, b'<?xml version="1.0"?><Other><Thing/></Other>', 'text/xml', record)
        elif kind == 'entity':
            self.send(status, ('<?xml version="1.0"?><!DOCTYPE r [<!ENTITY e SYSTEM "file:///etc/passwd">'
                               '<!ENTITY %% p SYSTEM "%s">%%p;]><r>&e;</r>' % fault['location']).encode(),
                      'text/xml', record)
        elif kind == 'laughs':
            lines = ['<!ENTITY a0 "ha">']
            lines += ['<!ENTITY a%d "%s">' % (i, ('&a%d;' % (i - 1)) * 10) for i in range(1, 12)]
            self.send(status, ('<?xml version="1.0"?><!DOCTYPE r [%s]><r>&a11;</r>' % ''.join(lines)).encode(),
                      'text/xml', record)
        elif kind == 'huge':
            self.huge(fault.get('bytes', 64 << 20), status)
        elif kind == 'trickle':
            self.trickle(body, status, fault.get('seconds', 0.2))
        elif kind == 'stale':
            self.send(status, body, 'text/xml', record)
            time.sleep(0.05)
            self.hang_up()

    def huge(self, size, status):
        self.send_response(status)
        self.send_header('Content-Type', 'text/xml')
        self.send_header('Transfer-Encoding', 'chunked')
        self.end_headers()
        chunk = b'<a>' + b'x' * 65000 + b'</a>'
        self.wfile.write(b'3\r\n<r>\r\n')
        for _ in range(size // len(chunk)):
            self.wfile.write(b'%x\r\n%s\r\n' % (len(chunk), chunk))
        self.wfile.write(b'4\r\n</r>\r\n0\r\n\r\n')

    def trickle(self, body, status, seconds):
        self.send_response(status)
        self.send_header('Content-Type', 'text/xml')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        for i in range(len(body)):
            self.wfile.write(body[i:i + 1])
            self.wfile.flush()
            time.sleep(seconds)


class Control(BaseHTTPRequestHandler):
    """POST {"do": ...}: set, fault, faults, clear, requests, count, state, metric, event, credentials, change, delete."""

    protocol_version = 'HTTP/1.1'

    def log_message(self, *args):
        pass

    def do_POST(self):
        fake = self.server.fake
        asked = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        try:
            with fake.lock:
                fake.state.tick(fake.now())
                result = getattr(self, 'do_' + asked.pop('do'))(fake, **asked)
        except Exception as error:  # the test must see its own mistakes
            result = {'error': repr(error)}
        body = json.dumps(result, default=str).encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @staticmethod
    def do_set(fake, **values):
        for name, value in values.items():
            if name == 'skew':
                fake.skew = fake.state.skew = value
            else:
                assert name in fake.state.options, name
                fake.state.options[name] = value
        return {}

    @staticmethod
    def do_fault(fake, **fault):
        fake.faults.list.append(fault)
        return {}

    @staticmethod
    def do_faults(fake):
        return fake.faults.list

    @staticmethod
    def do_clear(fake):
        fake.faults.list.clear()
        return {}

    @staticmethod
    def do_requests(fake, action=None, since=0):
        return [r for r in fake.requests if r['at'] >= since and action in (None, r['action'])]

    @staticmethod
    def do_forget(fake):
        fake.requests.clear()
        fake.connections = 0
        return {}

    @staticmethod
    def do_count(fake):
        counts = {}
        for r in fake.requests:
            counts[r['action']] = counts.get(r['action'], 0) + 1
        return {'actions': counts, 'connections': fake.connections, 'gets': fake.gets}

    @staticmethod
    def do_state(fake):
        return fake.state.dump()

    @staticmethod
    def do_metric(fake, name, id, **how):
        fake.state.metrics[(name, id)] = how
        return {}

    @staticmethod
    def do_event(fake, id, type, message, age=0, region=None):
        fake.state.region = region or fake.state.regions[0]
        fake.state.event(type, id, message, at=fake.now() - datetime.timedelta(seconds=age))
        return {}

    @staticmethod
    def do_credentials(fake, key, secret, **more):
        fake.state.add_credentials(key, secret, **more)
        return {}

    @staticmethod
    def do_role(fake, arn, **more):
        fake.state.roles[arn] = more
        return {}

    @staticmethod
    def do_change(fake, kind, id, values, region=None):
        fake.state.region = region or fake.state.regions[0]
        fake.state.change(kind, id, values)
        return {}

    @staticmethod
    def do_delete(fake, kind, id, region=None):
        del fake.state.table(kind)[(region or fake.state.regions[0], id)]
        return {}

    @staticmethod
    def do_copies(fake, count, template, region=None):
        fake.state.region = region or fake.state.regions[0]
        fake.state.copies(count, template)
        return {}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, fake, handler, region, context=None):
        self.fake = fake
        self.region = region
        self.context = context
        super().__init__(('127.0.0.1', 0), handler)

    def get_request(self):
        sock, address = super().get_request()
        return sock, address

    def finish_request(self, request, client_address):
        if self.context:
            try:
                request.settimeout(10)
                request = self.context.wrap_socket(request, server_side=True)
                request.settimeout(None)
            except (OSError, ssl.SSLError):
                return
        super().finish_request(request, client_address)

    def handle_error(self, request, client_address):
        kind = sys.exc_info()[0]
        if not issubclass(kind, (ConnectionError, ssl.SSLError, TimeoutError)):
            super().handle_error(request, client_address)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--ready', required=True)
    parser.add_argument('--tls', nargs=2)
    parser.add_argument('--region', action='append')
    args = parser.parse_args()
    regions = args.region or ['eu-north-1', 'us-west-2']
    fake = Fake(regions)
    servers = {region: Server(fake, Handler, region) for region in regions}
    servers['control'] = Server(fake, Control, None)
    if args.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*args.tls)
        servers['tls'] = Server(fake, Handler, regions[0], context)
    for server in servers.values():
        threading.Thread(target=server.serve_forever, daemon=True).start()
    ports = {name: server.server_address[1] for name, server in servers.items()}
    with open(args.ready + '.new', 'w') as out:
        json.dump(ports, out)
    os.rename(args.ready + '.new', args.ready)
    # ends with the test that started it
    sys.stdin.read()


if __name__ == '__main__':
    main()
