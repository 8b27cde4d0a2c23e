#!/usr/bin/python3
"""A Kubernetes API server with CloudNativePG's Cluster resource, for tests.

It is strict: what it is sent is checked against the CRD's schema (unknown
fields too, when asked), the media type of a patch, resourceVersion, and the
rules of the operator's webhook.  It is slow: an operator moves each cluster
through its phases, and right after a change the status is still the old one.
And it is nasty on demand: see Control.

    fake_kubernetes.py DIR CRD

DIR holds server.crt, server.key (TLS is always on) and tokens (the valid
bearer tokens, one a line, read again for every request; after a token may
stand the file of a manifest: its Role is all that the token may do then).  If
there is DIR/clients.crt, a client certificate of that authority is a login,
too.  It writes DIR/ports:
the API's port and that of the control endpoint, which is plain HTTP:

    POST /faults    [{"match": "PATCH .*/clusters/x", "times": 1, "status": 500, ...}]
    POST /settings  {"pace": 0.2, "on_promote": {"x": ["program", "argument"]}, ...}
    POST /patch     {"kind": "clusters", "name": "x", "patch": {...}}: somebody else's change
    POST /expire    lists that were begun before now get 410
    GET  /requests  what was asked: [[method, path, status, time], ...]
    GET  /rights    what was allowed by a Role: [[group, resource, verb], ...]
"""
import base64
import copy
import datetime
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jsonschema

GROUP = "postgresql.cnpg.io"
HEALTHY = "Cluster in healthy state"
SYSTEM_ID = "7000000000000000001"

lock = threading.RLock()
changed = threading.Condition(lock)
objects = {}        # (kind, namespace, name) -> object
history = []        # (resourceVersion, type, object), for watches
state = {"rv": 100, "oldest": 0, "uid": 0}
settings = {"pace": 0.2, "on_promote": {}, "stuck": [], "token": "right", "system_id": SYSTEM_ID, "keep_token": False,
            "page": 0}
faults = []
requests = []
rights = []
generated = {}      # the last serial number that a Cluster has given, by its uid
directory, crd = sys.argv[1], json.load(open(sys.argv[2]))
SCHEMA = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def now():
    return datetime.datetime.utcnow().strftime("%Y-%m-%dT%H:%M:%SZ")


class Refused(Exception):
    def __init__(self, code, reason, message, **details):
        super().__init__(message)
        self.code, self.reason, self.details = code, reason, details


def store(kind, obj, event):
    state["rv"] += 1
    obj["metadata"]["resourceVersion"] = str(state["rv"])
    key = (kind, obj["metadata"]["namespace"], obj["metadata"]["name"])
    if event == "DELETED":
        objects.pop(key, None)
    else:
        objects[key] = obj
    history.append((state["rv"], kind, event, copy.deepcopy(obj)))
    changed.notify_all()


def merge(target, patch):
    """RFC 7386"""
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = merge(target.get(key), value)
    return target


def with_defaults(schema, value):
    if isinstance(value, dict):
        for name, sub in schema.get("properties", {}).items():
            if name not in value and "default" in sub:
                value[name] = copy.deepcopy(sub["default"])
            if name in value:
                with_defaults(sub, value[name])
    elif isinstance(value, list) and "items" in schema:
        for item in value:
            with_defaults(schema["items"], item)
    return value


def unknown_fields(schema, value, path=""):
    found = []
    if isinstance(value, dict) and "properties" in schema:
        for name in list(value):
            if name in schema["properties"]:
                found += unknown_fields(schema["properties"][name], value[name], path + "." + name)
            elif "additionalProperties" not in schema and path.split(".")[1:2] != ["metadata"]:
                found.append((path + "." + name).lstrip("."))
                value.pop(name)
    elif isinstance(value, list) and "items" in schema:
        for i, item in enumerate(value):
            found += unknown_fields(schema["items"], item, "%s[%d]" % (path, i))
    return found


def is_replica(cluster):
    replica = cluster["spec"].get("replica")
    if not replica:
        return False
    if "enabled" in replica:
        return replica["enabled"]
    return (replica.get("self") or cluster["metadata"]["name"]) != replica.get("primary")


LABEL = r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"


def check_metadata(kind, metadata):
    """What Kubernetes itself wants of names and labels."""
    wrong = []
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", metadata["name"]) or \
            len(metadata["name"]) > 253:
        wrong.append(("metadata.name", "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters"))
    for key, value in metadata.get("labels", {}).items():
        if not re.fullmatch(LABEL, key.split("/")[-1]) or not re.fullmatch(LABEL, value):
            wrong.append(("metadata.labels", "a valid label must be an empty string or consist of alphanumeric characters"))
    if wrong:
        raise Refused(422, "Invalid", '%s "%s" is invalid: %s' % (kind, metadata["name"], ", ".join("%s: %s" % w for w in wrong)),
                      name=metadata["name"], causes=[{"reason": "FieldValueInvalid", "message": m, "field": f} for f, m in wrong])


def parse_token(token):
    try:
        content = json.loads(base64.b64decode(token, validate=True))
        return content if content.get("databaseSystemIdentifier") else None
    except ValueError:
        return None


def webhook(new, old):
    """The rules of the operator's admission webhook that a replica client can break."""
    spec, name, wrong = new["spec"], new["metadata"]["name"], []
    known = [c["name"] for c in spec.get("externalClusters", [])]
    replica = spec.get("replica")
    if len(name) > 50 or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        wrong.append(("metadata.name", "the maximum length of a cluster name is 50 characters and it is a DNS label"))
    if spec.get("maxSyncReplicas", 0) >= spec["instances"] > 0 and spec.get("maxSyncReplicas", 0) > 0:
        wrong.append(("spec.maxSyncReplicas", "maxSyncReplicas must be lower than the number of instances"))
    if len(spec.get("bootstrap", {})) > 1:
        wrong.append(("spec.bootstrap", "Only one bootstrap method can be specified at a time"))
    source = spec.get("bootstrap", {}).get("pg_basebackup", {}).get("source")
    if source is not None and source not in known:
        wrong.append(("spec.bootstrap.pg_basebackup.source", "External cluster %s not found" % source))
    for i, cluster in enumerate(spec.get("externalClusters", [])):
        if not cluster.get("connectionParameters") and not cluster.get("plugin"):
            wrong.append(("spec.externalClusters[%d]" % i, "one of connectionParameters, plugin and barmanObjectStore is required"))
    if len(set(known)) != len(known):
        wrong.append(("spec.externalClusters", "the list of external clusters contains duplicate values"))
    if replica:
        for field in ("primary", "self", "source"):
            if replica.get(field) and replica[field] not in known:
                wrong.append(("spec.replicaCluster." + field, "External cluster %s not found" % replica[field]))
        if "enabled" in replica and replica.get("primary"):
            wrong.append(("spec.replicaCluster.enabled", "replica mode enabled is not compatible with the primary field"))
        if replica.get("minApplyDelay") and replica.get("promotionToken"):
            wrong.append(("spec.replicaCluster", "minApplyDelay cannot be applied with a promotion token"))
        if replica.get("promotionToken") and is_replica(new):
            wrong.append(("spec.replicaCluster.token", "promotionToken is only allowed for primary clusters"))
        elif replica.get("promotionToken") and not parse_token(replica["promotionToken"]):
            wrong.append(("spec.replicaCluster.token", "Invalid promotionToken format"))
        if old is None and is_replica(new) and not set(spec.get("bootstrap", {})) & {"pg_basebackup", "recovery"}:
            wrong.append(("spec.replicaCluster", "replica mode bootstrap is compatible only with pg_basebackup or recovery"))
    if "storage" not in spec or "size" not in spec.get("storage", {}):
        wrong.append(("spec.storage.size", "Size not configured. Please add it, or a storage request in the pvcTemplate."))
    if old is not None:
        if old["status"].get("switchReplicaClusterStatus", {}).get("inProgress") and is_replica(old) != is_replica(new):
            wrong.append(("spec.replica.enabled",
                          "cannot modify the field while there is an ongoing operation to enable the replica cluster"))
        if spec.get("storage", {}).get("size") != old["spec"].get("storage", {}).get("size") and \
                spec["storage"].get("size", "") < old["spec"]["storage"].get("size", ""):
            wrong.append(("spec.storage.size", "can't shrink existing storage"))
    if wrong:
        text = 'Cluster.%s "%s" is invalid: %s' % (
            "cluster.cnpg.io" if old else GROUP, name, ", ".join("%s: Invalid value: %s" % w for w in wrong))
        raise Refused(422, "Invalid", 'admission webhook "vcluster.cnpg.io" denied the request: ' + text,
                      name=name, kind="Cluster", group="cluster.cnpg.io" if old else GROUP,
                      causes=[{"reason": "FieldValueInvalid", "message": m, "field": f} for f, m in wrong])


def checked(new, old, query):
    """A cluster as it would be stored; returns it with the warnings."""
    unknown = unknown_fields(SCHEMA, new)
    if unknown and query.get("fieldValidation") == ["Strict"]:
        raise Refused(400, "BadRequest", "strict decoding error: " + ", ".join('unknown field "%s"' % u for u in unknown))
    with_defaults(SCHEMA, new)
    problems = sorted(jsonschema.Draft7Validator(SCHEMA).iter_errors(new), key=lambda e: list(e.path))
    if problems:
        raise Refused(422, "Invalid", 'Cluster.%s "%s" is invalid: %s' % (
            GROUP, new["metadata"].get("name"), "; ".join(".".join(map(str, e.path)) + ": " + e.message for e in problems)),
            name=new["metadata"].get("name"), group=GROUP, kind="Cluster",
            causes=[{"reason": "FieldValueInvalid", "message": e.message, "field": ".".join(map(str, e.path))} for e in problems])
    webhook(new, old)
    return new, unknown


# ---- the operator ----

class Operator(threading.Thread):
    """Brings each cluster's status to what its spec says, one move after the other."""

    def run(self):
        while True:
            time.sleep(settings["pace"])
            with lock:
                for key, obj in list(objects.items()):
                    if key[0] == "clusters" and key[2] not in settings["stuck"]:
                        before = json.dumps(obj["status"], sort_keys=True)
                        new = copy.deepcopy(obj)
                        self.move(new)
                        if json.dumps(new["status"], sort_keys=True) != before:
                            store("clusters", new, "MODIFIED")

    def instance(self, cluster, name):
        status = cluster["status"]
        metadata = cluster["metadata"]
        status.setdefault("instanceNames", []).append(name)
        status["instances"] = len(status["instanceNames"])
        store("pods", {"apiVersion": "v1", "kind": "Pod", "metadata": {
            "namespace": metadata["namespace"], "name": name, "uid": "pod-" + name,
            "labels": {"cnpg.io/cluster": metadata["name"], "cnpg.io/podRole": "instance"}},
            "spec": {}, "status": {"phase": "Running"}}, "ADDED")

    def report(self, cluster):
        status = cluster["status"]
        primary = not is_replica(cluster)
        names = status["instanceNames"]
        status["readyInstances"] = len(names)
        status["instancesStatus"] = {"healthy": list(names)}
        status["instancesReportedState"] = {
            n: {"isPrimary": primary and n == status["currentPrimary"], "ip": "10.0.0.%d" % (i + 1),
                "timeLineID": status.get("timelineID", 1)} for i, n in enumerate(names)}
        status["conditions"] = [{"type": "Ready", "status": "True", "reason": "ClusterIsReady", "message": "Cluster is Ready",
                                 "lastTransitionTime": now()}]

    def phase(self, cluster, text):
        cluster["status"]["phase"] = text
        if text == HEALTHY:
            cluster["status"].pop("phaseReason", None)
            self.report(cluster)

    def move(self, cluster):
        spec, status, name = cluster["spec"], cluster["status"], cluster["metadata"]["name"]
        phase = status.get("phase")
        if phase is None:
            status.update(systemID=settings["system_id"], writeService=name + "-rw", readService=name + "-r")
            generated[cluster["metadata"]["uid"]] = 1
            status["currentPrimary"] = status["targetPrimary"] = name + "-1"
            self.instance(cluster, name + "-1")
            if not is_replica(cluster):
                status["timelineID"] = 1
            self.phase(cluster, "Setting up primary")
        elif phase == "Cluster is unrecoverable and needs manual intervention":
            pass
        elif phase == "Setting up primary":
            self.phase(cluster, "Waiting for the instances to become active")
        elif phase in ("Creating a new replica", "Waiting for the instances to become active"):
            self.phase(cluster, HEALTHY)
        elif status["targetPrimary"] != status["currentPrimary"]:
            if status["targetPrimary"] not in status["instanceNames"]:
                status["targetPrimary"] = status["currentPrimary"]
            elif status.get("phaseReason") != "moving":
                status["phaseReason"] = "moving"
            else:
                status["currentPrimary"] = status["targetPrimary"]
                status["timelineID"] = status.get("timelineID", 1) + 1
                self.promoted(name)
                self.phase(cluster, HEALTHY)
        elif len(status["instanceNames"]) < spec["instances"]:
            generated[cluster["metadata"]["uid"]] += 1
            self.instance(cluster, "%s-%d" % (name, generated[cluster["metadata"]["uid"]]))
            self.phase(cluster, "Creating a new replica")
        elif len(status["instanceNames"]) > spec["instances"]:
            victim = max((n for n in status["instanceNames"] if n != status["currentPrimary"]),
                         key=lambda n: int(n.rsplit("-", 1)[1]))
            status["instanceNames"].remove(victim)
            status["instances"] = len(status["instanceNames"])
            pod = objects.get(("pods", cluster["metadata"]["namespace"], victim))
            if pod:
                store("pods", pod, "DELETED")
            self.phase(cluster, HEALTHY)
        else:
            self.roles(cluster)

    def promoted(self, name):
        if name in settings["on_promote"]:
            subprocess.run(settings["on_promote"][name], check=True)

    def roles(self, cluster):
        """Replica clusters: promotion, demotion."""
        status, name = cluster["status"], cluster["metadata"]["name"]
        replica = cluster["spec"].get("replica") or {}
        was_primary = status["instancesReportedState"][status["currentPrimary"]]["isPrimary"]
        token = replica.get("promotionToken")
        if was_primary and is_replica(cluster):
            switch = status.setdefault("switchReplicaClusterStatus", {})
            if not switch.get("inProgress"):
                switch["inProgress"] = True
                status.pop("demotionToken", None)
            elif settings["token"] != "never":
                switch["inProgress"] = False
                status["demotionToken"] = {"empty": "", "right": self.token(status, settings["system_id"]),
                                           "wrong": self.token(status, "1")}[settings["token"]]
                self.report(cluster)
        elif not was_primary and not is_replica(cluster):
            if token and status.get("phase") != "Promoting to primary cluster":
                self.phase(cluster, "Promoting to primary cluster")
                return
            if token and parse_token(token)["databaseSystemIdentifier"] != status["systemID"]:
                status["phaseReason"] = "Promotion token content is not correct for current instance"
                self.phase(cluster, "Cluster is unrecoverable and needs manual intervention")
                return
            if token:
                status["lastPromotionToken"] = token
            status["timelineID"] = status.get("timelineID", 1) + 1
            if not settings["keep_token"]:
                status.pop("demotionToken", None)
            status.pop("switchReplicaClusterStatus", None)
            self.promoted(name)
            self.phase(cluster, HEALTHY)

    def token(self, status, system_id):
        return base64.b64encode(json.dumps({
            "latestCheckpointTimelineID": str(status.get("timelineID", 1)), "redoWalFile": "000000010000000000000005",
            "databaseSystemIdentifier": system_id, "latestCheckpointREDOLocation": "0/5000028",
            "timeOfLatestCheckpoint": "now", "operatorVersion": "1.30.0"}).encode()).decode()


# ---- HTTP ----

def role_of(manifest, namespace):
    """The rules of the manifest's Roles for a namespace."""
    import yaml
    with open(manifest) as file:
        return [rule for doc in yaml.safe_load_all(file) if doc["kind"] == "Role" and doc["metadata"]["namespace"] == namespace
                for rule in doc["rules"]]


RESOURCES = {
    "/api/v1": [("pods", "Pod"), ("secrets", "Secret")],
    "/apis/%s/v1" % GROUP: [("clusters", "Cluster"), ("clusters/status", "Cluster"), ("clusters/scale", "Scale")]}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, code, body, headers=(), kind="application/json"):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        requests.append([self.command, self.path, code, time.time()])
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, code, reason, message, headers=(), **details):
        self.answer(code, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason,
                           "message": message, "code": code, "details": details}, headers)

    def handle_any(self):
        url = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(url.query)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        fault = self.fault(body.decode(errors="replace"))
        if fault and self.misbehave(fault, url, query, body):
            return
        with open(os.path.join(directory, "tokens")) as file:
            tokens = dict((line.split() + [None])[:2] for line in file if line.split())
        token = self.headers.get("Authorization", "")[len("Bearer "):]
        certified = bool(self.connection.getpeercert())
        if token not in tokens and not certified:
            return self.refuse(401, "Unauthorized", "Unauthorized")
        try:
            # a client certificate goes before a token
            self.authorize(url.path, query, None if certified else tokens[token])
            self.serve(url.path, query, body)
        except Refused as e:
            self.refuse(e.code, e.reason, str(e), **e.details)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

    def authorize(self, path, query, manifest):
        """RBAC, of a token that has a Role."""
        m = re.fullmatch(r"(/api/v1|/apis/([^/]+)/v1)/namespaces/([^/]+)/([^/]+)(?:/([^/]+)(?:/([^/]+))?)?", path)
        if manifest is None or not m:
            return
        group, namespace, name = m[2] or "", m[3], m[5]
        resource = m[4] + ("/" + m[6] if m[6] else "")
        verb = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}.get(self.command)
        verb = verb or ("get" if name else "watch" if query.get("watch", ["0"])[0] in ("1", "true") else "list")
        for rule in role_of(manifest, namespace):
            if group in rule["apiGroups"] and resource in rule["resources"] and verb in rule["verbs"]:
                rights.append([group, resource, verb])
                return
        raise Refused(403, "Forbidden", '%s%s%s is forbidden: User "system:serviceaccount:%s:replica-ctl" cannot %s resource "%s" '
                      'in API group "%s" in the namespace "%s"' % (m[4], "." + group if group else "", ' "%s"' % name if name else "",
                                                                   namespace, verb, resource, group, namespace), name=name, kind=m[4])

    def fault(self, body):
        with lock:
            for fault in faults:
                if fault.get("times", 1) > 0 and re.search(fault["match"], self.command + " " + self.path) and \
                        re.search(fault.get("body", ""), body):
                    if fault.get("skip", 0) > 0:
                        fault["skip"] -= 1
                        continue
                    fault["times"] = fault.get("times", 1) - 1
                    return fault
        return None

    def misbehave(self, fault, url, query, body):
        """True: this was the answer."""
        time.sleep(fault.get("delay", 0))
        if fault.get("lost"):           # done, and nobody hears of it
            self.wfile = open(os.devnull, "wb")
            try:
                self.serve(url.path, query, body)
            except Refused:
                pass
            self.connection.close()
            self.close_connection = True
            return True
        if fault.get("cut"):
            self.connection.close()
            self.close_connection = True
            return True
        if "raw" in fault:
            self.answer(fault.get("status", 200), fault["raw"].encode(), kind=fault.get("type", "application/json"))
            return True
        if "status" in fault:
            code = fault["status"]
            reason = fault.get("reason", {401: "Unauthorized", 403: "Forbidden", 409: "Conflict", 422: "Invalid",
                                          429: "TooManyRequests", 500: "InternalError", 504: "Timeout"}.get(code, ""))
            headers = [("Retry-After", str(fault["retry_after"]))] if "retry_after" in fault else []
            self.refuse(code, reason, fault.get("message", "the server is told to say so"), headers)
            return True
        return False

    def serve(self, path, query, body):
        if path in ("/api", "/apis") or path in RESOURCES or path == "/version":
            return self.discover(path)
        m = re.fullmatch(r"(/api/v1|/apis/%s/v1)/namespaces/([^/]+)/(pods|secrets|clusters)(?:/([^/]+)(?:/(status|scale))?)?"
                         % re.escape(GROUP), path)
        if not m or (m[3] == "clusters") != (m[1] != "/api/v1"):
            return self.refuse(404, "NotFound", "the server could not find the requested resource")
        kind, namespace, name, sub = m[3], m[2], m[4] and urllib.parse.unquote(m[4]), m[5]
        if name is None and self.command == "GET":
            if query.get("watch", ["0"])[0] in ("1", "true"):
                return self.watch(kind, namespace, query)
            return self.list(kind, namespace, query)
        with lock:
            old = objects.get((kind, namespace, name))
            if name is not None and old is None:
                raise Refused(404, "NotFound", '%s%s "%s" not found' % (kind, "." + GROUP if kind == "clusters" else "", name),
                              name=name, kind=kind)
            if self.command == "GET":
                return self.answer(200, old)
            if self.command == "POST":
                return self.create(kind, namespace, json.loads(body), query)
            if self.command == "DELETE":
                return self.delete(kind, old, json.loads(body) if body else {}, query)
            if self.command in ("PATCH", "PUT"):
                return self.change(kind, old, sub, body, query)
        return self.refuse(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")

    def discover(self, path):
        if path == "/version":
            return self.answer(200, {"major": "1", "minor": "30", "gitVersion": "v1.30.0"})
        if path == "/api":
            return self.answer(200, {"kind": "APIVersions", "versions": ["v1"]})
        if path == "/apis":
            version = {"groupVersion": GROUP + "/v1", "version": "v1"}
            return self.answer(200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": [
                {"name": GROUP, "versions": [version], "preferredVersion": version}]})
        return self.answer(200, {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": path.split("/", 2)[2], "resources": [
            {"name": n, "singularName": "", "namespaced": True, "kind": k,
             "verbs": ["get", "list", "watch", "create", "patch", "update", "delete"]} for n, k in RESOURCES[path]]})

    def list(self, kind, namespace, query):
        with lock:
            items = [o for k, o in sorted(objects.items()) if k[0] == kind and k[1] == namespace]
            kinds = {"pods": "PodList", "secrets": "SecretList", "clusters": "ClusterList"}
            metadata = {"resourceVersion": str(state["rv"])}
            limit = int(query.get("limit", ["0"])[0])
            limit = min(limit, settings["page"] or limit)
            if query.get("continue"):
                at = json.loads(base64.b64decode(query["continue"][0]))
                if at["rv"] < state["oldest"]:
                    raise Refused(410, "Expired", "The provided continue parameter is too old to display a consistent list result.")
                items = [o for o in items if o["metadata"]["name"] > at["after"]]
                metadata["resourceVersion"] = str(at["rv"])
            if limit and len(items) > limit:
                items = items[:limit]
                metadata["continue"] = base64.b64encode(json.dumps(
                    {"rv": int(metadata["resourceVersion"]), "after": items[-1]["metadata"]["name"]}).encode()).decode()
            return self.answer(200, {"kind": kinds[kind], "apiVersion": GROUP + "/v1" if kind == "clusters" else "v1",
                                     "metadata": metadata, "items": items})

    def watch(self, kind, namespace, query):
        since = int(query.get("resourceVersion", ["0"])[0] or 0)
        wanted = dict(f.split("=", 1) for f in query.get("fieldSelector", []))
        until = time.time() + float(query.get("timeoutSeconds", ["30"])[0])
        requests.append([self.command, self.path, 200, time.time()])
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        with lock:
            if since and since < state["oldest"]:
                self.event("ERROR", {"kind": "Status", "status": "Failure", "reason": "Expired", "code": 410,
                                     "message": "too old resource version"})
                return
            while time.time() < until:
                for rv, k, event, obj in history:
                    if rv > since and k == kind and obj["metadata"]["namespace"] == namespace and \
                            wanted.get("metadata.name", obj["metadata"]["name"]) == obj["metadata"]["name"]:
                        self.event(event, obj)
                since = state["rv"]
                changed.wait(0.2)

    def event(self, kind, obj):
        self.wfile.write(json.dumps({"type": kind, "object": obj}).encode() + b"\n")
        self.wfile.flush()

    def create(self, kind, namespace, obj, query):
        name = obj.get("metadata", {}).get("name")
        if not name:
            raise Refused(422, "Invalid", "name or generateName is required")
        if (kind, namespace, name) in objects:
            raise Refused(409, "AlreadyExists", '%s "%s" already exists' % (kind, name), name=name, kind=kind)
        warnings = []
        check_metadata(kind, obj["metadata"])
        if kind == "clusters":
            if obj.get("apiVersion") != GROUP + "/v1" or obj.get("kind") != "Cluster":
                raise Refused(400, "BadRequest", "the object provided is unrecognized")
            obj, warnings = checked(obj, None, query)
            obj["status"] = {}
        elif kind == "secrets":
            for value in obj.get("data", {}).values():
                base64.b64decode(value, validate=True)
        state["uid"] += 1
        obj["metadata"].update(namespace=namespace, uid="uid-%d" % state["uid"], generation=1, creationTimestamp=now())
        if query.get("dryRun") != ["All"]:
            store(kind, obj, "ADDED")
        self.answer(201, obj, [("Warning", '299 - "unknown field \\"%s\\""' % w) for w in warnings])

    def delete(self, kind, old, options, query):
        wanted = options.get("preconditions", {}).get("uid")
        if wanted and wanted != old["metadata"]["uid"]:
            raise Refused(409, "Conflict", "Precondition failed: UID in precondition: %s, UID in object meta: %s"
                          % (wanted, old["metadata"]["uid"]))
        if query.get("dryRun") == ["All"]:
            return self.answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})
        store(kind, old, "DELETED")
        if kind == "clusters":
            for key, pod in list(objects.items()):
                if key[0] == "pods" and pod["metadata"]["labels"]["cnpg.io/cluster"] == old["metadata"]["name"]:
                    store("pods", pod, "DELETED")
        self.answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success", "details": {"name": old["metadata"]["name"]}})

    def change(self, kind, old, sub, body, query):
        media = self.headers.get("Content-Type", "").split(";")[0]
        if self.command == "PUT":
            new = json.loads(body)
            if "resourceVersion" not in new.get("metadata", {}):
                raise Refused(422, "Invalid", "metadata.resourceVersion: must be specified for an update")
        elif media != "application/merge-patch+json":
            return self.refuse(415, "UnsupportedMediaType", "the body of the request was in an unknown format - accepted media "
                               "types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml")
        else:
            new = merge(copy.deepcopy(old), json.loads(body))
        if new["metadata"].get("resourceVersion") != old["metadata"]["resourceVersion"]:
            raise Refused(409, "Conflict", 'Operation cannot be fulfilled on %s "%s": the object has been modified; please apply '
                          "your changes to the latest version and try again" % (kind, old["metadata"]["name"]))
        warnings = []
        if sub == "status":
            stored = copy.deepcopy(old)
            stored["status"] = new.get("status", {})
            checked(copy.deepcopy(stored), None if kind != "clusters" else old, query)
        else:
            stored = new
            stored["status"] = copy.deepcopy(old.get("status", {}))
            if kind == "clusters":
                stored, warnings = checked(stored, old, query)
                if stored["spec"] != old["spec"]:
                    stored["metadata"]["generation"] = old["metadata"]["generation"] + 1
        if query.get("dryRun") != ["All"]:
            store(kind, stored, "MODIFIED")
        self.answer(200, stored, [("Warning", '299 - "unknown field \\"%s\\""' % w) for w in warnings])


class Control(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        self.reply(rights if self.path == "/rights" else requests)

    def do_POST(self):
        what = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with lock:
            if self.path == "/faults":
                faults[:] = what
            elif self.path == "/settings":
                settings.update(what)
            elif self.path == "/expire":
                state["oldest"] = state["rv"] + 1
            elif self.path == "/patch":
                key = next(k for k in objects if k[0] == what["kind"] and k[2] == what["name"])
                store(what["kind"], merge(copy.deepcopy(objects[key]), what["patch"]), "MODIFIED")
            elif self.path == "/delete":
                key = next(k for k in objects if k[0] == what["kind"] and k[2] == what["name"])
                store(what["kind"], objects[key], "DELETED")
        self.reply([])

    def reply(self, what):
        data = json.dumps(what).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main():
    api = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.path.join(directory, "server.crt"), os.path.join(directory, "server.key"))
    if os.path.exists(os.path.join(directory, "clients.crt")):
        context.load_verify_locations(os.path.join(directory, "clients.crt"))
        context.verify_mode = ssl.CERT_OPTIONAL
    api.socket = context.wrap_socket(api.socket, server_side=True, do_handshake_on_connect=False)
    api.daemon_threads = True
    control = ThreadingHTTPServer(("127.0.0.1", 0), Control)
    control.daemon_threads = True
    Operator(daemon=True).start()
    threading.Thread(target=api.serve_forever, daemon=True).start()
    with open(os.path.join(directory, "ports.new"), "w") as ports:
        ports.write("%d %d\n" % (api.server_address[1], control.server_address[1]))
    os.rename(os.path.join(directory, "ports.new"), os.path.join(directory, "ports"))
    control.serve_forever()


main()
