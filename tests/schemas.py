"""Schemas for tests, written as short words and turned into the OpenAPI document that PostgREST would serve.

A column is `type`, `type!` (required), `pk`, `=` (has a default), `>table` (foreign key to its id), `(a|b)` (enum).
"""

import re
from typing import Any

from provision.fixtures.schema import Schema, from_openapi

TICKETING = {
    "staff": {"id": "uuid! = pk", "display_name": "text!"},
    "events": {"id": "uuid! = pk", "name": "text!", "event_date": "date!", "event_time": "time without time zone!"},
    "ticket_types": {
        "id": "uuid! = pk", "event_id": "uuid! >events", "code": "character varying!", "name": "text!",
        "price": "numeric!", "total_inventory": "integer! =",
    },
    "orders": {
        "id": "uuid! = pk", "event_id": "uuid! >events", "purchaser_email": "text!", "subtotal": "numeric!",
        "total": "numeric!",
    },
    "tickets": {
        "id": "uuid! = pk", "event_id": "uuid! >events", "order_id": "uuid! >orders",
        "ticket_type_id": "uuid! >ticket_types", "attendee_name": "text!", "qr_token": "text!", "is_used": "boolean",
    },
    "scan_logs": {"id": "uuid! = pk", "ticket_id": "uuid >tickets", "scan_success": "boolean! ="},
    "event_checklist": {"id": "bigint! = pk", "event_id": "uuid! >events", "position": "integer", "task": "text"},
}  # fmt: skip
SCAN = {"p_ticket_id": "uuid", "p_scanned_by": "uuid", "p_device_id": "text", "p_scan_method": "text"}
CASCADES = frozenset({("scan_logs", "ticket_id"), ("event_checklist", "event_id"), ("tickets", "order_id")})


def openapi(tables: dict[str, dict[str, str]], functions: dict[str, dict[str, str]] | None = None) -> dict[str, Any]:
    """The document that PostgREST would serve for these tables and functions."""
    return {
        "swagger": "2.0",
        "definitions": {name: _definition(columns) for name, columns in tables.items()},
        "paths": {f"/rpc/{name}": _operation(arguments) for name, arguments in (functions or {}).items()},
    }


def ticketing() -> Schema:
    """The schema of the ticketing app."""
    return from_openapi(openapi(TICKETING, {"scan_ticket_atomic": SCAN}))


def _definition(columns: dict[str, str]) -> dict[str, Any]:
    required = [name for name, words in columns.items() if "!" in words]
    return {"type": "object", "required": required, "properties": {n: _column(w) for n, w in columns.items()}}


def _column(words: str) -> dict[str, Any]:
    column: dict[str, Any] = {"format": re.split(r"!| pk| =| >| \(|$", words)[0], "type": "string", "description": ""}
    if " pk" in words:
        column["description"] = "Note:\nThis is a Primary Key.<pk/>"
    if " =" in words:
        column["default"] = "something()"
    if reference := re.search(r">(\w+)", words):
        table = reference[1]
        column["description"] += f"Note:\nThis is a Foreign Key to `{table}.id`.<fk table='{table}' column='id'/>"
    if enum := re.search(r"\((.*)\)", words):
        column["enum"] = enum[1].split("|")
    return column


def _operation(arguments: dict[str, str]) -> dict[str, Any]:
    properties = {name: {"format": kind} for name, kind in arguments.items()}
    body = {"name": "args", "in": "body", "schema": {"required": list(arguments), "properties": properties}}
    return {"post": {"parameters": [body]}}
