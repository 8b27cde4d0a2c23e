#!/usr/bin/python3
"""
fake_aiven.py
    A service that answers as Aiven's API does, strict and nasty, for tests.

    fake_aiven.py --port-file FILE [--tls CERTIFICATE KEY] [--idle SECONDS]

Listens on 127.0.0.1, writes its port and the one for control (plain http, the
same without --tls) to FILE, and ends when its standard input does.

Strict: every request is checked against aiven-openapi.json (method, path,
query, body; nothing unknown passes), and the rules that the document does not
tell (names, tokens and rights, plans, backups, protection) are kept as the
real service does.  Every answer of ours is checked against the document, too.

Stateful: what is made takes its time (see KNOBS), and a replica is promoted
by the deletion of its integration; the command given for it makes the real
standby behind it a primary.

Nasty: faults are put in by the test through /_fake/..., see Control.
"""
import argparse
import datetime
import json
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import urllib.parse
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jsonschema

HERE = os.path.dirname(os.path.abspath(__file__))

# What the test may change at any time; seconds unless the name says otherwise.
KNOBS = {
    "build": 0.5,            # REBUILDING after a creation
    "backup": 0.0,           # until a new primary has a backup
    "unlink": 0.2,           # a deleted integration is still listed
    "promote": 0.4,          # until the role is master, from the deletion
    "delete": 0.2,           # a deleted service still answers
    "uri_late": 0.0,         # RUNNING without connection data
    "integration_late": 0.0, # a new integration is listed without an id
    "role": "normal",        # or null, absent
    "tags": "normal",        # or null, absent: what answers show of tags
    "flap": False,           # RUNNING, then REBUILDING again, then RUNNING
    "strange_state": "",     # instead of REBUILDING
    "errors_in_success": False,
    "dead_promote": False,   # the deletion is accepted and nothing happens
    "rate": 0,               # requests a minute; 0: no limit
    "retry_after": True,     # whether the 429 of the limit has the header
    "check_answers": True,
}

PLANS = ["hobbyist", "startup-4", "startup-8", "startup-16", "business-4", "business-8", "premium-8"]
CLOUDS = ["google-northamerica-northeast1", "google-europe-north1", "aws-eu-north-1", "azure-norway-east"]
PG_USER_CONFIG = {
    "admin_username", "admin_password", "ip_filter", "pg", "pg_version", "pgbouncer", "pglookout", "variant",
    "shared_buffers_percentage", "synchronous_replication", "work_mem", "static_ips", "service_log", "timescaledb",
    "public_access", "private_access", "pg_stat_monitor_enable", "backup_hour", "backup_minute", "recovery_target_time",
    "project_to_fork_from", "service_to_fork_from", "pg_read_replica", "migration", "privatelink_access",
    "additional_backup_regions", "enable_ipv6", "pg_qualstats", "pgaudit"}


class ApiError(Exception):
    def __init__(self, status, message, code=None, headers=None):
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers or {}

    def body(self):
        error = {"message": self.message, "status": self.status}
        if self.code:
            error["error_code"] = self.code
        return {"errors": [error], "message": self.message}


def iso(moment):
    return datetime.datetime.fromtimestamp(moment, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# ---------------------------------------------------------------------------
# The document
# ---------------------------------------------------------------------------

def json_schema(node):
    """OpenAPI's "nullable" in the words of JSON schema."""
    if isinstance(node, list):
        return [json_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: json_schema(value) for key, value in node.items()}
    if node.pop("nullable", False) is True:
        if isinstance(node.get("type"), str):
            node["type"] = [node["type"], "null"]
        if "enum" in node and None not in node["enum"]:
            node["enum"] = node["enum"] + [None]
    return node


class Document:
    def __init__(self, path):
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
        root = {"components": json_schema(document["components"])}
        self.operations = []
        for path, methods in document["paths"].items():
            pattern = re.compile("/v1" + re.sub(r"\\?\{(\w+)\\?\}", r"(?P<\1>[^/]+)", path) + "$")
            for method, operation in methods.items():
                body = operation.get("requestBody")
                answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
                self.operations.append({
                    "id": operation["operationId"],
                    "method": method.upper(),
                    "pattern": pattern,
                    "query": {p["name"]: p["schema"] for p in operation["parameters"] if p["in"] == "query"},
                    "body": body and self.validator(body["content"]["application/json"]["schema"], root),
                    "answer": self.validator(answer, root),
                })

    @staticmethod
    def validator(schema, root):
        return jsonschema.Draft7Validator({**json_schema(schema), **root})

    def find(self, method, path):
        known = False
        for operation in self.operations:
            match = operation["pattern"].match(path)
            if match:
                known = True
                if operation["method"] == method:
                    return operation, {k: urllib.parse.unquote(v) for k, v in match.groupdict().items()}
        raise ApiError(405 if known else 404, "Method Not Allowed" if known else "Not Found")


def complain(validator, value, status, what):
    errors = sorted(validator.iter_errors(value), key=lambda e: list(map(str, e.path)))
    if errors:
        where = "".join("[%r]" % part for part in errors[0].path)
        raise ApiError(status, "%s: %s%s" % (what, errors[0].message, " at " + where if where else ""))


# ---------------------------------------------------------------------------
# State
# ---------------------------------------------------------------------------

class Service:
    def __init__(self, project, name, **given):
        self.project, self.name = project, name
        self.made = time.time()
        self.build = given.pop("build", None)
        self.flap = False
        self.plan = given.get("plan", "startup-4")
        self.cloud = given.get("cloud", CLOUDS[0])
        self.type = given.get("service_type", "pg")
        self.maintenance = given.get("maintenance") or {}
        self.tags = given.get("tags") or {}
        self.user_config = given.get("user_config") or {}
        self.protected = given.get("termination_protection", False)
        self.disk = given.get("disk_space_mb") or 81920
        self.vpc = given.get("project_vpc_id")
        self.powered = given.get("powered", True)
        self.state = given.get("state")         # instead of what time makes of it
        self.backups = given.get("backups", 1)  # of a primary
        self.source = given.get("source")       # of a replica
        self.integration = None
        self.uri = given.get("uri")             # {host, port, user, password, dbname, sslmode}
        self.on_promote = given.get("on_promote")
        self.promoted = None                    # moment of the integration's deletion
        self.deleted = None
        self.metrics = given.get("metrics")

    def age(self):
        return time.time() - self.made


class State:
    def __init__(self):
        self.lock = threading.RLock()
        self.reset()

    def reset(self):
        self.projects = {}
        self.integrations = {}
        self.tokens = {}
        self.faults = []
        self.log = []
        self.knobs = dict(KNOBS)
        self.uris = {}          # connection data for services that will be made
        self.commands = {}      # and what promotes them
        self.recent = []        # moments of requests, for the limit
        self.complaints = []

    def project(self, name):
        if name not in self.projects:
            raise ApiError(404, "Project does not exist", "project_does_not_exist")
        return self.projects[name]

    def service(self, project, name):
        services = self.project(project)["services"]
        found = services.get(name)
        if found and found.deleted and time.time() - found.deleted > self.knobs["delete"]:
            del services[name]
            found = None
        if not found:
            raise ApiError(404, "Service does not exist", "service_does_not_exist")
        return found

    def event(self, project, service, kind, text, actor="user@example.com"):
        events = self.project(project)["events"]
        events.insert(0, {"id": uuid.uuid4().hex, "time": iso(time.time()), "event_type": kind,
                          "event_desc": text, "service_name": service, "actor": actor})

    # ---- a service, as the API shows it ----

    def building(self, service):
        """How much of the building is done, 0 to 1."""
        seconds = self.knobs["build"] if service.build is None else service.build
        return min(1.0, service.age() / seconds) if seconds > 0 else 1.0

    def state_of(self, service):
        if service.state:
            return service.state
        if not service.powered:
            return "POWEROFF"
        if service.source and self.knobs["flap"] and service.promoted is None:
            seconds = self.knobs["build"]
            if seconds * 0.5 < service.age() < seconds * 0.6:
                return "RUNNING"
        if self.building(service) < 1.0:
            return self.knobs["strange_state"] or "REBUILDING"
        return "RUNNING"

    def is_replica(self, service):
        return service.source is not None and (
            service.promoted is None or self.knobs["dead_promote"]
            or time.time() - service.promoted < self.knobs["promote"])

    def nodes(self, service):
        done = self.building(service)
        node = {"name": service.name + "-1", "availability_zone": None, "state": "running"}
        if service.source and done < 1.0:
            node["state"] = "setting_up_vm" if done < 0.2 else "syncing_data"
            total = 8 * 1024 ** 3
            copied = max(0.0, min(1.0, (done - 0.2) / 0.7))
            node["progress_updates"] = [
                {"phase": "prepare", "completed": done >= 0.2, "current": None, "min": None, "max": None, "unit": None},
                {"phase": "basebackup", "completed": copied >= 1.0, "current": int(total * copied), "min": 0,
                 "max": total, "unit": "bytes_compressed"},
                None,
                {"phase": "stream", "completed": False}]
        elif done < 1.0:
            node["state"] = "setting_up_vm"
        role = "read-replica" if self.is_replica(service) else "master"
        if self.knobs["role"] == "normal":
            node["role"] = role
        elif self.knobs["role"] == "null":
            node["role"] = None
        return [node]

    def integrations_of(self, service):
        listed = []
        for integration in self.integrations.values():
            if service.name not in (integration["source_service"], integration["dest_service"]) \
                    or service.project != integration["dest_project"]:
                continue
            gone = integration.get("deleted")
            if gone and time.time() - gone > self.knobs["unlink"]:
                continue
            shown = {k: v for k, v in integration.items() if k not in ("made", "deleted")}
            if time.time() - integration["made"] < self.knobs["integration_late"]:
                shown.update(service_integration_id=None, enabled=False, active=False)
            if shown["integration_type"] == "read_replica":
                replica = self.projects[service.project]["services"].get(shown["dest_service"])
                ready = replica and self.building(replica) >= 1.0
                shown["integration_status"] = {
                    "state": {"errors": [], "nodes": {}, "status": "running" if ready else "starting",
                              "likely_error_cause": None},
                    "status_user_desc": "Integration is running" if ready else "Integration is starting"}
            listed.append(shown)
        return listed

    def show(self, service, secrets):
        running = self.building(service) >= 1.0 and service.powered
        uri = None
        if running and service.age() > self.knobs["uri_late"]:
            uri = dict(service.uri or {"host": "127.0.0.1", "port": "1", "user": "avnadmin", "dbname": "defaultdb",
                                       "password": "AVNS_unset", "sslmode": "require"})
            if not secrets:
                uri["password"] = "<redacted>"
        text = uri and "postgres://%s:%s@%s:%s/%s?sslmode=%s" % (
            uri["user"], urllib.parse.quote(uri["password"], safe=""), urllib.parse.quote(uri["host"], safe="."),
            uri["port"], uri["dbname"], uri["sslmode"])
        shown = {
            "service_name": service.name, "service_type": service.type, "plan": service.plan,
            "cloud_name": service.cloud, "cloud_description": None,
            "create_time": iso(service.made), "update_time": iso(service.made), "group_list": ["default"],
            "project_vpc_id": service.vpc, "disk_space_mb": service.disk,
            "state": self.state_of(service), "termination_protection": service.protected,
            "user_config": service.user_config, "service_uri": text, "service_uri_params": uri,
            "service_integrations": self.integrations_of(service),
            "node_states": self.nodes(service), "node_count": 1, "node_cpu_count": 2, "node_memory_mb": 4096,
            "maintenance": {"dow": service.maintenance.get("dow", "monday"), "enabled": True,
                            "time": service.maintenance.get("time", "03:00:00"), "updates": []},
            "components": [], "features": {}, "databases": ["defaultdb"], "metadata": {}, "cmk_id": None,
            "connection_info": None,
            "users": [{"username": "avnadmin", "type": "primary",
                       "password": uri["password"] if uri and secrets else "<redacted>"}],
            "backups": self.backups_of(service),
        }
        if self.knobs["tags"] == "normal":
            shown["tags"] = service.tags
        elif self.knobs["tags"] == "null":
            shown["tags"] = None
        return shown

    def backups_of(self, service):
        if service.source and service.promoted is None:
            return []
        since = service.promoted or service.made
        if (service.promoted or service.backups == "late") and time.time() - since < self.knobs["backup"]:
            return []
        count = 1 if service.backups == "late" else int(service.backups)
        return [{"backup_name": "backup-%d" % i, "backup_time": iso(service.made), "data_size": 123456789}
                for i in range(count)]

    def integrate(self, project, source, dest):
        name = str(uuid.uuid4())
        self.integrations[name] = {
            "service_integration_id": name, "integration_type": "read_replica", "active": True, "enabled": True,
            "description": "Read replica", "source_project": project, "source_service": source,
            "source_service_type": "pg", "source_endpoint": None, "source_endpoint_id": None,
            "dest_project": project, "dest_service": dest, "dest_service_type": "pg", "dest_endpoint": None,
            "dest_endpoint_id": None, "user_config": {}, "integration_status": None, "made": time.time()}
        return name


# ---------------------------------------------------------------------------
# Operations
# ---------------------------------------------------------------------------

class Operations:
    """One method for each operationId; returns the body of the answer."""

    def __init__(self, state):
        self.state = state

    def ServiceCreate(self, project, query, body):
        state = self.state
        place = state.project(project)
        name = body["service_name"]
        if not re.fullmatch(r"[a-z0-9-]{1,64}", name):
            raise ApiError(400, "Service name must consist of 1-64 alphanumerical characters")
        try:
            state.service(project, name)
            raise ApiError(409, "Service name is already in use in this project")
        except ApiError as error:
            if error.status != 404:
                raise
        if body["service_type"] != "pg":
            raise ApiError(400, "Unknown service type '%s'" % body["service_type"])
        if body["plan"] not in PLANS:
            raise ApiError(400, "Plan '%s' for service type pg is not available" % body["plan"], "bad_request")
        if body.get("cloud", CLOUDS[0]) not in CLOUDS:
            raise ApiError(400, "Cloud '%s' does not exist" % body["cloud"], "bad_request")
        if body.get("project_vpc_id") and body["project_vpc_id"] not in place["vpcs"]:
            raise ApiError(404, "VPC does not exist", "project_vpc_not_found")
        dow_time = body.get("maintenance", {}).get("time")
        if dow_time and not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d", dow_time):
            raise ApiError(400, "Invalid maintenance time")
        for key in body.get("user_config", {}):
            if key not in PG_USER_CONFIG:
                raise ApiError(400, "Invalid user_config: Additional properties are not allowed ('%s' was unexpected)" % key)
        if "pg_read_replica" in body.get("user_config", {}):
            raise ApiError(400, "the deprecated form pg_read_replica is not to be used")
        for key, value in body.get("tags", {}).items():
            if not re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_-]{0,63}", key) or not isinstance(value, str) or len(value) > 64:
                raise ApiError(400, "Invalid tag '%s'" % key)
        source = None
        for wish in body.get("service_integrations", []):
            if wish["integration_type"] != "read_replica" or source:
                raise ApiError(400, "Unsupported integration type")
            source = state.service(wish.get("source_project", project), wish.get("source_service", ""))
            self.may_be_source(source)
        service = Service(project, name, source=source and source.name,
                          **{k: v for k, v in body.items() if k not in ("service_name", "service_integrations")})
        service.build = state.knobs["build"]
        service.backups = "late"
        service.uri = state.uris.get(name)
        service.on_promote = state.commands.get(name)
        place["services"][name] = service
        if source:
            service.integration = state.integrate(project, source.name, name)
            state.event(project, name, "integration_created", "Created read_replica integration")
        state.event(project, name, "service_create", "Created service '%s'" % name)
        return {"service": state.show(service, False), "message": "created"}

    def may_be_source(self, source):
        if source.type != "pg":
            raise ApiError(403, "Service integrations are not available for this service")
        if source.plan in ("hobbyist", "free-1-1gb") or not self.state.backups_of(source):
            raise ApiError(403, "Creation of a read replica not allowed under current plan")
        if self.state.state_of(source) == "POWEROFF":
            raise ApiError(403, "Service is not powered on", "not_powered")

    def ServiceList(self, project, query):
        services = list(self.state.project(project)["services"])
        shown = []
        for name in services:
            try:
                shown.append(self.state.show(self.state.service(project, name), query.get("include_secrets") == "true"))
            except ApiError:
                pass
        return {"services": shown}

    def ServiceGet(self, project, service_name, query):
        service = self.state.service(project, service_name)
        return {"service": self.state.show(service, query.get("include_secrets") == "true")}

    def ServiceUpdate(self, project, service_name, query, body):
        service = self.state.service(project, service_name)
        if "powered" in body:
            if not body["powered"] and service.protected:
                raise ApiError(403, "Service is protected against termination and shutdown. Remove termination protection first.")
            service.powered = body["powered"]
        if "plan" in body and body["plan"] not in PLANS:
            raise ApiError(400, "Plan '%s' for service type pg is not available" % body["plan"])
        for key in body.get("user_config", {}):
            if key not in PG_USER_CONFIG:
                raise ApiError(400, "Invalid user_config: Additional properties are not allowed ('%s' was unexpected)" % key)
        service.plan = body.get("plan", service.plan)
        service.cloud = body.get("cloud", service.cloud)
        service.protected = body.get("termination_protection", service.protected)
        service.disk = body.get("disk_space_mb", service.disk)
        service.maintenance.update(body.get("maintenance", {}))
        service.user_config.update(body.get("user_config", {}))
        if "project_vpc_id" in body:
            service.vpc = body["project_vpc_id"]
        if "plan" in body or "cloud" in body:
            service.made = time.time()
        self.state.event(project, service_name, "service_update", "Updated service '%s'" % service_name)
        return {"service": self.state.show(service, False)}

    def ServiceDelete(self, project, service_name, query):
        service = self.state.service(project, service_name)
        if service.protected:
            raise ApiError(403, "Service is protected against termination and shutdown. Remove termination protection first.")
        if service.deleted is None:
            service.deleted = time.time()
            for name, integration in list(self.state.integrations.items()):
                if service_name in (integration["dest_service"], integration["source_service"]):
                    del self.state.integrations[name]
            self.state.event(project, service_name, "service_delete", "Terminated service '%s'" % service_name)
        return {"message": "terminated"}

    def ServiceIntegrationList(self, project, service_name, query):
        service = self.state.service(project, service_name)
        available = {
            "service_integration_id": None, "integration_type": "metrics", "active": False, "enabled": False,
            "description": "Send service metrics", "source_project": project, "source_service": service_name,
            "source_service_type": "pg", "dest_project": project, "dest_service": None, "dest_service_type": "influxdb",
            "user_config": None}
        return {"service_integrations": [available] + self.state.integrations_of(service)}

    def ServiceIntegrationCreate(self, project, query, body):
        raise ApiError(403, "read_replica can only be created alongside the service")

    def integration(self, project, integration_id):
        found = self.state.integrations.get(integration_id)
        if not found or found["dest_project"] != project or found.get("deleted"):
            raise ApiError(404, "Service integration not found", "service_integration_not_found")
        return found

    def ServiceIntegrationGet(self, project, integration_id, query):
        self.state.project(project)
        found = self.integration(project, integration_id)
        if time.time() - found["made"] < self.state.knobs["integration_late"]:
            raise ApiError(404, "Service integration not found", "service_integration_not_found")
        return {"service_integration": {k: v for k, v in found.items() if k not in ("made", "deleted")}}

    def ServiceIntegrationDelete(self, project, integration_id, query):
        self.state.project(project)
        found = self.integration(project, integration_id)
        if not self.state.knobs["dead_promote"]:
            found["deleted"] = time.time()
        replica = self.state.project(project)["services"].get(found["dest_service"])
        if replica and found["integration_type"] == "read_replica" and not self.state.knobs["dead_promote"]:
            replica.promoted = time.time()
            if replica.on_promote:
                threading.Timer(self.state.knobs["promote"] / 2, run_command, [replica.on_promote]).start()
            self.state.event(project, replica.name, "integration_deleted", "Deleted read_replica integration")
        return {"message": "deleted"}

    def ServiceBackupsGet(self, project, service_name, query):
        return {"backups": self.state.backups_of(self.state.service(project, service_name))}

    def ServiceMetricsFetch(self, project, service_name, query, body):
        service = self.state.service(project, service_name)
        values = {"cpu_usage": 12.5, "disk_usage": 25.0, "mem_usage": 40.0, "mem_available": 55.0,
                  "load_average": 0.3, "diskio_read": 3, "diskio_writes": 7, "net_receive": 1000, "net_send": 2000}
        values.update(service.metrics or {})
        now = time.time() // 30 * 30
        node = "%s-1 (%s)" % (service.name, "read-replica" if self.state.is_replica(service) else "master")
        return {"metrics": {
            name: {"data": {"cols": [{"label": "time", "type": "date"}, {"label": node, "type": "number"}],
                            "rows": [[iso(now - 30), 1.0], [iso(now), value]]},
                   "hints": {"title": name}} for name, value in values.items()}}

    def ServiceAlertsList(self, project, service_name, query):
        self.state.service(project, service_name)
        return {"alerts": []}

    def ProjectGetEventLogs(self, project, query):
        limit = int(query.get("limit", "100"))
        if limit > 250:
            raise ApiError(400, "Invalid value for limit parameter: maximum allowed value is 250")
        return {"events": self.state.project(project)["events"][:limit]}

    def ProjectServiceTagsReplace(self, project, service_name, query, body):
        self.state.service(project, service_name).tags = body["tags"]
        return {"message": "replaced"}

    def ProjectServicePlanList(self, project, service_type, query):
        self.state.project(project)
        if service_type != "pg":
            raise ApiError(404, "Service type does not exist")
        return {"service_plans": [
            {"service_plan": plan, "service_type": "pg", "node_count": 1,
             "regions": {cloud: {"price_usd": "0.1"} for cloud in CLOUDS}} for plan in PLANS]}

    def ProjectKmsGetCA(self, project, query):
        return {"certificate": self.state.project(project)["ca"]}

    def ListProjectClouds(self, project, query):
        self.state.project(project)
        return {"clouds": [{"cloud_name": cloud, "geo_region": "europe"} for cloud in CLOUDS]}

    def UserInfo(self, query):
        return {"user": {"auth": ["password"], "create_time": iso(0), "features": {}, "projects": list(self.state.projects),
                         "real_name": "Test", "state": "active", "token_validity_begin": None, "user": "user@example.com",
                         "user_id": "u1"}}


def run_command(argv):
    subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


# What each right allows besides reading.
RIGHTS = {
    "admin": {"ServiceCreate", "ServiceUpdate", "ServiceDelete", "ServiceIntegrationDelete", "ServiceIntegrationCreate",
              "ProjectServiceTagsReplace", "ServiceMetricsFetch"},
    "read": {"ServiceMetricsFetch"},
    "recover": {"ServiceIntegrationDelete", "ServiceMetricsFetch"},
    "operate": {"ServiceCreate", "ServiceUpdate", "ServiceDelete", "ProjectServiceTagsReplace", "ServiceMetricsFetch"},
}


# ---------------------------------------------------------------------------
# Control: POST /_fake/NAME with a JSON object
# ---------------------------------------------------------------------------

class Control:
    """
    project {name, vpcs}            makes a project
    token {token, rights, expired}  makes a token valid; rights as in RIGHTS
    service {project, name, ...}    makes a service that is there already; "source" makes it a replica
    set {knob: value}               see KNOBS
    uri {service: {host, ...}}      connection data of services that are yet to be made
    on_promote {service: [argv]}    what makes the standby behind it a primary
    fault {path, method, times, skip, ...}  see Handler.inject; the oldest that matches is used
    faults {}                       forgets them all
    vanish {project, name}          the service is gone at once
    event {project, service_name, event_type, event_desc}
    log {clear}                     the requests so far
    state {}                        what there is
    """

    def __init__(self, state):
        self.state = state

    def project(self, name, vpcs=(), ca="-----BEGIN CERTIFICATE-----\n"):
        self.state.projects[name] = {"services": {}, "events": [], "vpcs": list(vpcs), "ca": ca}

    def token(self, token, rights="admin", expired=False):
        self.state.tokens[token] = {"rights": rights, "expired": expired}

    def service(self, project, name, **given):
        service = Service(project, name, **given)
        service.build = given.get("build", 0)
        self.state.projects[project]["services"][name] = service
        if service.source:
            service.integration = self.state.integrate(project, service.source, name)

    def change(self, project, name, **given):
        service = self.state.projects[project]["services"][name]
        for key, value in given.items():
            setattr(service, key, value)

    def set(self, **knobs):
        unknown = set(knobs) - set(KNOBS)
        if unknown:
            raise ValueError("unknown knobs: %s" % unknown)
        self.state.knobs.update(knobs)

    def uri(self, **uris):
        self.state.uris.update(uris)
        for project in self.state.projects.values():
            for name, uri in uris.items():
                if name in project["services"]:
                    project["services"][name].uri = uri

    def on_promote(self, **commands):
        self.state.commands.update(commands)
        for project in self.state.projects.values():
            for name, command in commands.items():
                if name in project["services"]:
                    project["services"][name].on_promote = command

    def fault(self, **fault):
        fault.setdefault("times", 1)
        fault.setdefault("skip", 0)
        self.state.faults.append(fault)

    def faults(self):
        left, self.state.faults = self.state.faults, []
        return left

    def vanish(self, project, name):
        self.state.projects[project]["services"].pop(name, None)
        for key, integration in list(self.state.integrations.items()):
            if name in (integration["dest_service"], integration["source_service"]):
                del self.state.integrations[key]

    def event(self, project, service_name, event_type, event_desc):
        self.state.event(project, service_name, event_type, event_desc, actor=None)

    def log(self, clear=False):
        log = list(self.state.log)
        if clear:
            self.state.log.clear()
        return log

    def state_(self):
        return {
            "services": {project: {name: self.state.show(service, False) for name, service in place["services"].items()
                                   if not service.deleted}
                         for project, place in self.state.projects.items()},
            "integrations": [i for i in self.state.integrations.values() if not i.get("deleted")],
            "complaints": self.state.complaints}

    def reset(self):
        self.state.reset()


# ---------------------------------------------------------------------------
# HTTP
# ---------------------------------------------------------------------------

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "fake"
    sys_version = ""

    def log_message(self, *args):
        pass

    def do_any(self):
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length) if length else b""
        if self.path.startswith("/_fake/"):
            return self.control(raw)
        return self.serve(raw)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_any

    def control(self, raw):
        name = self.path[len("/_fake/"):]
        control = self.server.control
        method = getattr(control, "state_" if name == "state" else name)
        with self.server.state.lock:
            result = method(**(json.loads(raw) if raw else {}))
        self.answer(200, json.dumps(result).encode())

    def serve(self, raw):
        state = self.server.state
        entry = {"method": self.command, "path": self.path, "time": time.time(), "status": None, "body": None,
                 "connection": id(self.connection)}
        with state.lock:
            state.log.append(entry)
            fault = self.take_fault()
            if raw:
                try:
                    entry["body"] = json.loads(raw)
                except ValueError:
                    entry["body"] = raw.decode("latin-1")
        if fault and not self.inject(fault, entry):
            return
        status, body, headers = self.execute(raw, entry)
        entry["status"] = status
        if fault and fault.get("after"):
            entry["status"] = fault["after"]
            return self.finish_badly(fault["after"], body)
        self.answer(status, json.dumps(body).encode(), headers)

    def take_fault(self):
        for fault in self.server.state.faults:
            if fault.get("method", self.command) != self.command or not re.search(fault.get("path", ""), self.path):
                continue
            if fault["skip"] > 0:
                fault["skip"] -= 1
                continue
            if fault["times"] != 0:
                if fault["times"] > 0:
                    fault["times"] -= 1
                return fault
        return None

    def inject(self, fault, entry):
        """
        delay: seconds before anything else
        before: "close", "reset", "hang": nothing is done and nothing is answered
        status with text, json or html, headers: answered instead of doing it
        done: true: it is done, too
        after: "lost" (done, connection closed), "cut" (half of the answer), "garbage", "huge"
        Returns whether the request is to be executed normally.
        """
        if fault.get("delay"):
            time.sleep(fault["delay"])
        before = fault.get("before")
        if before:
            entry["status"] = before
            if before == "hang":
                time.sleep(fault.get("seconds", 3600))
            elif before == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close()
            return False
        if "status" in fault:
            entry["status"] = fault["status"]
            if fault.get("done"):
                self.execute(json.dumps(entry["body"]).encode() if entry["body"] is not None else b"", entry)
            kind = "application/json"
            if "html" in fault:
                content, kind = fault["html"].encode(), "text/html"
            elif "text" in fault:
                content, kind = fault["text"].encode("latin-1"), "text/plain"
            elif "json" in fault:
                content = json.dumps(fault["json"]).encode()
            else:
                content = json.dumps(ApiError(fault["status"], fault.get("message", "Fault"),
                                              fault.get("code")).body()).encode()
            self.answer(fault["status"], content, fault.get("headers"), kind)
            return False
        return True

    def finish_badly(self, after, body):
        content = json.dumps(body).encode()
        if after == "cut":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:len(content) // 2])
        elif after == "garbage":
            return self.answer(200, content[:len(content) // 2])
        elif after == "empty":
            return self.answer(200, b"")
        elif after == "huge":
            return self.answer(200, b'{"services": "' + b"x" * (100 * 1024 * 1024) + b'"}')
        self.close()

    def close(self):
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def execute(self, raw, entry):
        state = self.server.state
        try:
            with state.lock:
                self.limit()
                operation, args, query, body = self.understand(raw)
                entry["operation"] = operation["id"]
                method = getattr(self.server.operations, operation["id"])
                if operation["body"]:
                    args["body"] = body
                answer = method(query=query, **args)
                if state.knobs["errors_in_success"]:
                    answer["errors"] = [{"message": "Something minor", "status": 500, "more_info": None}]
                    answer["message"] = "Something minor"
                if state.knobs["check_answers"] and not state.knobs["strange_state"] and operation["id"] != "UserInfo":
                    complain(operation["answer"], answer, 500, "the fake's own answer is wrong")
                return 200, answer, None
        except ApiError as error:
            if error.status in (400, 405, 500) or error.message.startswith("Not "):
                with state.lock:
                    state.complaints.append("%s %s: %s" % (self.command, self.path, error.message))
            return error.status, error.body(), error.headers

    def limit(self):
        state = self.server.state
        if not state.knobs["rate"]:
            return
        now = time.time()
        state.recent = [moment for moment in state.recent if now - moment < 60]
        if len(state.recent) >= state.knobs["rate"]:
            seconds = int(60 - (now - state.recent[0])) + 1
            raise ApiError(429, "The user has sent too many requests in a given amount of time: "
                           "Rate limit %d exceeded - try again in %ds" % (state.knobs["rate"], seconds),
                           headers={"Retry-After": str(seconds)} if state.knobs["retry_after"] else None)
        state.recent.append(now)

    def understand(self, raw):
        """Authentication, method, path, query, body; raises ApiError."""
        state = self.server.state
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        if scheme != "aivenv1" or not token:
            raise ApiError(401, "Missing (expired) db token")
        known = state.tokens.get(token)
        if known is None:
            raise ApiError(403, "Authentication failed", "authentication_failed")
        if known["expired"]:
            raise ApiError(401, "Missing (expired) db token")
        path, _, query_text = self.path.partition("?")
        operation, args = self.server.document.find(self.command, path)
        if operation["id"] not in RIGHTS[known["rights"]] and self.command != "GET":
            raise ApiError(403, "Permission denied", "permission_denied")
        query = dict(urllib.parse.parse_qsl(query_text, keep_blank_values=True))
        for key, value in query.items():
            kind = operation["query"].get(key)
            if kind is None:
                raise ApiError(400, "Invalid query parameter '%s'" % key)
            if kind["type"] == "boolean" and value not in ("true", "false") or \
                    kind["type"] == "integer" and not value.isdigit():
                raise ApiError(400, "Invalid value for query parameter '%s'" % key)
        body = None
        if operation["body"]:
            if self.headers.get("Content-Type", "").partition(";")[0].strip() != "application/json":
                raise ApiError(400, "Invalid content type")
            try:
                body = json.loads(raw)
            except ValueError:
                raise ApiError(400, "Invalid input: not JSON")
            complain(operation["body"], body, 400, "Invalid input")
        elif raw:
            raise ApiError(400, "Invalid input: a body was not expected")
        return operation, args, query, body

    def answer(self, status, content, headers=None, kind="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], (ConnectionError, ssl.SSLError, socket.timeout)):
            super().handle_error(request, client_address)


class TlsServer(Server):
    """The handshake is the connection's thread's business, not the listener's."""

    def __init__(self, context, *args):
        self.context = context
        super().__init__(*args)

    def finish_request(self, request, client_address):
        request.settimeout(30)
        super().finish_request(self.context.wrap_socket(request, server_side=True), client_address)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port-file", required=True)
    parser.add_argument("--tls", nargs=2)
    parser.add_argument("--idle", type=float, default=0, help="seconds after which an idle connection is closed")
    options = parser.parse_args()

    if options.idle:
        Handler.timeout = options.idle
    state = State()
    servers = [Server(("127.0.0.1", 0), Handler)]
    if options.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*options.tls)
        servers.insert(0, TlsServer(context, ("127.0.0.1", 0), Handler))
    for server in servers:
        server.state = state
        server.operations = Operations(state)
        server.control = Control(state)
        server.document = Document(os.path.join(HERE, "aiven-openapi.json"))

    with open(options.port_file + ".new", "w", encoding="ascii") as file:
        file.write("%d %d" % (servers[0].server_address[1], servers[-1].server_address[1]))
    os.rename(options.port_file + ".new", options.port_file)
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
