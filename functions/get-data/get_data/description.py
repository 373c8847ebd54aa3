"""What get-data answers, as OpenAPI. Pure."""

from get_data.ages import OLDEST
from get_data.filters import MAX_LIMIT
from get_data.formats import FORMATS, JSON
from serving.openapi import (
    Json,
    build_answer,
    build_document,
    build_header,
    build_operation,
    build_parameter,
    refer,
)

_BOOLEAN: Json = {"type": "string", "enum": ["True", "False"]}
_AGE: Json = {"type": "integer", "minimum": 0, "maximum": OLDEST}
_FILTERS = [
    build_parameter("is_image_exists", _BOOLEAN, "With or without a picture; any case"),
    build_parameter("min_age", _AGE, "Completed years on today's UTC date, inclusive"),
    build_parameter("max_age", _AGE, "Completed years on today's UTC date, inclusive"),
]
_FORM = [
    build_parameter(
        "limit", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT}, "At most so many users"
    ),
    build_parameter("after", {"type": "string"}, "Users that come after this user id"),
    build_parameter(
        "format",
        {"type": "string", "enum": list(FORMATS)},
        "The response format; overrides the Accept header",
    ),
    build_parameter(
        "spreadsheet", _BOOLEAN, "With csv: a ' before text that a spreadsheet would run as a formula"
    ),
]
_USER_ID = build_parameter("user_id", {"type": "string", "minLength": 1}, "As in the key", place="path")
_CACHING = {
    "ETag": build_header("Changes with all that the answer depends on; for If-None-Match"),
    "Vary": build_header("What of the request the answer depends on"),
    "Cache-Control": build_header("Keep it, and ask whether it has changed"),
}
_NOT_MODIFIED = build_answer("What you have is what there is", {}, {"ETag": _CACHING["ETag"]})
_USERS = build_answer(
    "The users, ordered by user id as bytes",
    {
        **{form.media_type: {"type": "string"} for form in FORMATS.values()},
        JSON.media_type: {"type": "object", "additionalProperties": refer("User")},
    },
    {
        # The page shows more than users, so it has no tag.
        **_CACHING,
        "Link": build_header("The next page, when there is one"),
        "Content-Disposition": build_header("What to save csv and ndjson as"),
        "Content-Encoding": build_header("gzip, for who accepts it"),
    },
)
_UNAVAILABLE = "database_unavailable"
_LIST_PROBLEMS = ("parameter_conflict", "not_acceptable", _UNAVAILABLE, "exports_busy", "http_version")
_LIST = build_operation(
    "All users that match, streamed, or a page of them",
    {"200": _USERS, "304": _NOT_MODIFIED},
    parameters=[*_FILTERS, *_FORM],
    problems=_LIST_PROBLEMS,
)
_ONE = build_operation(
    "One user",
    {
        "200": build_answer("The user", {JSON.media_type: refer("User")}, _CACHING),
        "304": _NOT_MODIFIED,
    },
    parameters=[_USER_ID],
    problems=("user_not_found", _UNAVAILABLE),
)
_IMAGE = build_operation(
    "The picture of a user",
    {
        "302": build_answer(
            "Where it is, for five minutes", {}, {"Location": build_header("A signed link to the store")}
        )
    },
    parameters=[_USER_ID],
    problems=("user_not_found", "image_not_found", _UNAVAILABLE),
)
_STATS = build_operation(
    "Figures of the users that match",
    {"200": build_answer("The figures", {JSON.media_type: refer("Stats")})},
    parameters=_FILTERS,
    problems=("parameter_conflict", _UNAVAILABLE),
)
_PAGE = build_operation(
    "The users that match; for browsers a page, where fields that its form left empty are taken out",
    {
        "200": _USERS,
        "302": build_answer("The page without empty fields", {}, {"Location": build_header("Its address")}),
        "304": _NOT_MODIFIED,
    },
    parameters=[*_FILTERS, *_FORM],
    problems=_LIST_PROBLEMS,
)

_COUNT: Json = {"type": "integer", "minimum": 0, "maximum": 2**63}
_RUN: Json = {
    "type": ["object", "null"],
    "required": ["run_id", "state", "ended_at"],
    "properties": {
        "run_id": {"type": "integer"},
        "state": {"enum": ["ok", "failed", "lost"]},
        "ended_at": {"type": "string", "format": "date-time"},
    },
}
_SCHEMAS: Json = {
    "User": {
        "type": "object",
        "required": ["first_name", "last_name", "birthts", "img_path"],
        "additionalProperties": False,
        "properties": {
            "first_name": {"type": "string"},
            "last_name": {"type": "string"},
            "birthts": {"type": "integer", "description": "milliseconds since 1970-01-01 UTC"},
            "img_path": {"type": ["string", "null"], "description": "bucket and key of the picture"},
        },
    },
    "Stats": {
        "type": "object",
        "required": [
            "count",
            "average_age",
            "with_picture",
            "ages",
            "data_version",
            "last_run",
            "last_ok_run",
            "due",
        ],
        "additionalProperties": False,
        "properties": {
            "count": _COUNT,
            "average_age": {"type": ["number", "null"]},
            "with_picture": _COUNT,
            "ages": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["min_age", "max_age", "count"],
                    "properties": {"min_age": _AGE, "max_age": {"type": "integer"}, "count": _COUNT},
                },
            },
            "data_version": _COUNT,
            "last_run": _RUN,
            "last_ok_run": {**_RUN, "description": "as of its end, users are what the bucket says"},
            "due": {**_COUNT, "description": "objects that the next run reads again, changed or not"},
        },
    },
}


def build_description() -> Json:
    """Return the OpenAPI document."""
    return build_document(
        "Rollcall: get-data",
        "The users that are in the bucket now, by filters; HEAD as GET.",
        {
            "/data": {"get": _LIST},
            "/data/{user_id}": {"get": _ONE},
            "/data/{user_id}/image": {"get": _IMAGE},
            "/stats": {"get": _STATS},
            "/": {"get": _PAGE},
        },
        _SCHEMAS,
    )
