#!/usr/bin/env python3
"""Where Amazon's credentials come from: STS, an instance's and a container's metadata service.

   aws_identity.py LOG CONTROL

Prints "sts PORT" and "ready".  All three answer on the same port.  CONTROL is
a file of JSON that is read anew for each request: {"imds": "off" | "norole" |
"failed" | "slow" | "expired", "sts": 403 | 500 | "html", "lifetime": seconds}.
STS verifies signatures by botocore if it is installed.
"""
import datetime
import http.server
import json
import sys
import time
from urllib.parse import parse_qs, urlsplit

try:
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials
    import botocore.auth
except ImportError:
    SigV4Auth = None

SECRETS = {'AKIDBASE': 'basesecret', 'AKIDENV': 'envsecret', 'ASIAINSTANCE': 'instancesecret'}
log = open(sys.argv[1], 'a', buffering=1)
made = 0


def control():
    try:
        return json.load(open(sys.argv[2]))
    except (OSError, ValueError):
        return {}


def iso(seconds):
    at = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return at.strftime('%Y-%m-%dT%H:%M:%SZ')


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args):
        pass

    def reply(self, status, body, kind='text/plain'):
        body = body.encode()
        self.send_response(status)
        self.send_header('Content-Type', kind)
        self.send_header('Content-Length', str(len(body)))
        self.send_header('x-amzn-RequestId', 'request-1')
        self.end_headers()
        self.wfile.write(body)

    def handle_one(self):
        length = int(self.headers.get('Content-Length') or 0)
        self.body = self.rfile.read(length).decode()
        self.control = control()
        log.write(json.dumps({'method': self.command, 'path': self.path, 'body': self.body,
                              'headers': {k.lower(): v for k, v in self.headers.items()}}) + '\n')
        if self.path.startswith('/latest/'):
            self.imds()
        elif self.path.startswith('/container'):
            self.container()
        else:
            self.sts()

    do_GET = do_PUT = do_POST = handle_one

    def imds(self):
        mode = self.control.get('imds')
        if mode == 'slow':
            time.sleep(5)
        if mode == 'off':
            self.reply(403, 'off')
        elif self.path == '/latest/api/token':
            ok = self.command == 'PUT' and self.headers.get('X-aws-ec2-metadata-token-ttl-seconds') == '21600'
            self.reply(200 if ok else 400, 'imdstoken')
        elif self.headers.get('X-aws-ec2-metadata-token') != 'imdstoken':
            self.reply(401, 'no token')
        elif self.path == '/latest/meta-data/iam/security-credentials/':
            self.reply(404 if mode == 'norole' else 200, 'the-role\n')
        elif self.path == '/latest/meta-data/iam/security-credentials/the-role':
            self.reply(200, json.dumps({
                'Code': 'Failed' if mode == 'failed' else 'Success', 'AccessKeyId': 'ASIAINSTANCE',
                'SecretAccessKey': 'instancesecret', 'Token': 'instancetoken',
                'Expiration': iso(-60 if mode == 'expired' else self.control.get('lifetime', 3600))}))
        else:
            self.reply(404, '')

    def container(self):
        if self.headers.get('Authorization') != 'containerauth':
            self.reply(401, 'who are you')
        else:
            self.reply(200, json.dumps({'AccessKeyId': 'ASIACONTAINER', 'SecretAccessKey': 'containersecret',
                                        'Token': 'containertoken', 'Expiration': iso(3600)}))

    def error(self, status, code, message):
        self.reply(status, '<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">\n <Error><Type>Sender</Type>'
                   '<Code>%s</Code><Message>%s</Message></Error><RequestId>r</RequestId></ErrorResponse>' % (code, message),
                   'text/xml')

    def signature_ok(self):
        """By independent code."""
        authorization = self.headers.get('Authorization', '')
        key = authorization.split('Credential=')[1].split('/')[0] if 'Credential=' in authorization else None
        if key not in SECRETS:
            return False
        if SigV4Auth is None:
            return True
        region, service = authorization.split('Credential=')[1].split(',')[0].split('/')[2:4]
        signed = authorization.split('SignedHeaders=')[1].split(',')[0].split(';')
        request = AWSRequest('POST', 'http://%s%s' % (self.headers['Host'], self.path), data=self.body,
                             headers={k: v for k, v in self.headers.items() if k.lower() in signed and k.lower() != 'host'})
        request.context['timestamp'] = self.headers['X-Amz-Date']
        signer = SigV4Auth(Credentials(key, SECRETS[key]), service, region)
        canonical = signer.canonical_request(request)
        return authorization.endswith('Signature=' + signer.signature(signer.string_to_sign(request, canonical), request))

    def sts(self):
        global made
        mode = self.control.get('sts')
        form = {k: v[0] for k, v in parse_qs(self.body, strict_parsing=True).items()}
        if mode == 'html':
            self.reply(503, '<html><body>busy</body></html>', 'text/html')
        elif mode == 403:
            self.error(403, 'AccessDenied', 'User: arn:aws:iam::1:user/u is not authorized to perform: sts:AssumeRole')
        elif mode == 'signature':
            self.error(403, 'SignatureDoesNotMatch', 'The request signature we calculated does not match.\n'
                       'The Canonical String for this request should have been POST x-amz-security-token:topsecrettoken')
        elif mode == 'entity':
            self.reply(200, '<!DOCTYPE r [<!ENTITY e SYSTEM "file:///etc/passwd">]><r>&e;</r>', 'text/xml')
        elif form['Action'] == 'AssumeRole' and not self.signature_ok():
            self.error(403, 'SignatureDoesNotMatch', 'no')
        elif form['Action'] == 'AssumeRoleWithWebIdentity' and ('Authorization' in self.headers
                                                               or form['WebIdentityToken'] != 'webtoken'):
            self.error(400, 'InvalidIdentityToken', 'no')
        elif form['Action'] == 'AssumeRole' and 'external' in form['RoleArn'] and form.get('ExternalId') != 'ext/1 &':
            self.error(403, 'AccessDenied', 'external id')
        else:
            made += 1
            self.reply(200, '<%(a)sResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><%(a)sResult><Credentials>'
                       '<AccessKeyId>ASIAROLE%(n)d</AccessKeyId><SecretAccessKey>rolesecret</SecretAccessKey>'
                       '<SessionToken>roletoken</SessionToken><Expiration>%(e)s</Expiration></Credentials></%(a)sResult>'
                       '</%(a)sResponse>' % {'a': form['Action'], 'n': made, 'e': iso(self.control.get('lifetime', 3600))},
                       'text/xml')


server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
print('sts', server.server_address[1])
print('botocore', 0 if SigV4Auth is None else 1)
print('ready', flush=True)
import threading
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
