"""What process-users answers, as OpenAPI. Pure."""

from serving.openapi import Json, build_answer, build_document, build_operation, build_parameter, refer

_JSON = "application/json"
_BOOLEAN: Json = {"type": "string", "enum": ["True", "False"]}
_RUN_PARAMETERS = [
    build_parameter("full", _BOOLEAN, "Read every object again, changed or not"),
    build_parameter("dry_run", _BOOLEAN, "Report what a run would do now, and change nothing"),
    build_parameter("allow_empty", _BOOLEAN, "Believe a bucket that lists nothing although it did before"),
]
_LIMIT = build_parameter("limit", {"type": "integer", "minimum": 1, "maximum": 1000}, "At most so many runs")
_RUN_ID = build_parameter("run_id", {"type": "string", "minLength": 1}, "The number of a run", place="path")
_DO_RUN = build_operation(
    "Do a run and answer its report",
    {"200": build_answer("The run ended well", {_JSON: refer("Report")})},
    parameters=_RUN_PARAMETERS,
    problems=("run_in_progress", "source_empty", "database_unavailable", "store_unavailable"),
)
_LIST_RUNS = build_operation(
    "The last runs, the one going on first",
    {
        "200": build_answer(
            "The runs",
            {
                _JSON: {
                    "type": "object",
                    "required": ["runs"],
                    "properties": {"runs": {"type": "array", "items": refer("Run")}},
                }
            },
        )
    },
    parameters=[_LIMIT],
    problems=("database_unavailable", "exports_busy"),
)
_GET_RUN = build_operation(
    "One run",
    {"200": build_answer("The run", {_JSON: refer("Run")})},
    parameters=[_RUN_ID],
    problems=("run_not_found", "database_unavailable"),
)
_SETTLE = build_operation(
    "Settle what a notification of the bucket is about; not reachable at the gateway",
    {"204": build_answer("Settled, or nothing to settle", {})},
    problems=("notification_malformed", "database_unavailable", "store_unavailable"),
    requestBody={"required": True, "content": {_JSON: {"schema": {"type": "object"}}}},
)

_COUNT: Json = {"type": "integer", "minimum": 0}
_COUNTS: Json = dict.fromkeys(("listed", "ignored", "unchanged", "upserted", "removed", "rejected"), _COUNT)
_MOMENT: Json = {"type": "string", "format": "date-time"}
_SCHEMAS: Json = {
    "Run": {
        "type": "object",
        "required": ["run_id", "state", "started_at", "ended_at", "full", *_COUNTS, "error"],
        "additionalProperties": False,
        "properties": {
            "run_id": _COUNT,
            "state": {"enum": ["running", "ok", "failed", "lost"]},
            "started_at": _MOMENT,
            "ended_at": {"type": ["string", "null"], "format": "date-time"},
            "full": {"type": "boolean"},
            **_COUNTS,
            "error": {"type": ["string", "null"], "description": "the code of a problem"},
        },
    },
    "Report": {
        "type": "object",
        "required": ["run_id", "state", "started_at", "seconds", *_COUNTS, "rejects", "output"],
        "properties": {
            "run_id": {"type": ["integer", "null"], "description": "null for a dry run"},
            "state": {"type": "string"},
            "started_at": _MOMENT,
            "seconds": {"type": "number"},
            **_COUNTS,
            "rejects": {
                "type": "array",
                "description": "the first 100",
                "items": {
                    "type": "object",
                    "required": ["key", "reason", "detail"],
                    "properties": {name: {"type": "string"} for name in ("key", "reason", "detail")},
                },
            },
            "output": {
                "type": ["object", "null"],
                "properties": {
                    "bucket": {"type": "string"},
                    "key": {"type": "string"},
                    "rows": _COUNT,
                },
            },
        },
    },
}


def build_description() -> Json:
    """Return the OpenAPI document."""
    return build_document(
        "Rollcall: process-users",
        "Runs that bring the users in step with the bucket.",
        {
            "/data": {"post": _DO_RUN},
            "/": {"post": _DO_RUN},
            "/runs": {"get": _LIST_RUNS},
            "/runs/{run_id}": {"get": _GET_RUN},
            "/events": {"post": _SETTLE},
        },
        _SCHEMAS,
    )
