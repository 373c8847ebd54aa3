"""The documentation names all that there is, and nothing else: compared with the code's own tables."""

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest
from documents import PAGES, read_text
from rig import FUNCTIONS, REPOSITORY

import get_data.description
import get_data.formats
import get_data.settings
import process_users.description
import process_users.settings
import rollcall.scheduler
import rollcall.setup
import rollcall.stack
from serving.problems import CODES
from serving.settings import SettingsError

DOCUMENTATION = "\n".join(map(read_text, PAGES))
CODE = [path for path in sorted(FUNCTIONS.rglob("*.py")) if path.name != "__init__.py"]
TREES = {path: ast.parse(path.read_text()) for path in CODE}


def read_rows(header: str) -> list[list[str]]:
    """Return the rows of the tables that start with this header, on whatever page."""
    _, *tables = DOCUMENTATION.split(f"\n{header}\n")
    assert tables, header
    lines = [line for table in tables for line in table.split("\n\n")[0].splitlines()[1:]]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def to_names(text: str) -> list[str]:
    """Return what stands between backticks, blocks of code excepted."""
    return re.findall(r"`([^`]+)`", re.sub(r"(?ms)^```.*?^```$", "", text))


def calls(*functions: str) -> Iterator[ast.Call]:
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
                yield node


def first_texts(*functions: str) -> set[str]:
    """Return the texts that are given first to these functions, `a if b else c` being two."""
    return {
        text.value
        for call in calls(*functions)
        if call.args
        for text in ast.walk(call.args[0])
        if isinstance(text, ast.Constant) and isinstance(text.value, str)
    }


class Recorder(dict[str, str]):
    """An environment that notes what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[str] = set()

    def get(self, key: str, default: str = "") -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.asked.add(key)
        return default


def read_variables(from_env: Callable[[Mapping[str, str]], object]) -> set[str]:
    recorder = Recorder()
    with suppress(SettingsError):
        from_env(recorder)
    return recorder.asked


def test_every_problem_has_its_row():
    gateway = (REPOSITORY / "local" / "Caddyfile").read_text()
    of_gateway = set(re.findall(r'"code":"(\w+)"', gateway)) - CODES.keys()
    got = {to_names(code)[0]: status for code, status, _ in read_rows("| code | status | when |")}
    assert got.keys() == CODES.keys() | of_gateway
    assert {code: status for code, status in got.items() if code in CODES} == {
        code: str(status) for code, status in CODES.items()
    }


def test_every_reason_to_reject_has_its_row():
    migration = (REPOSITORY / "infra" / "postgres" / "migrations" / "20261123000000_rollcall.sql").read_text()
    want = first_texts("Reject", "_RejectedError") | set(
        re.findall(r"when duplicate then '(\w+)'", migration)
    )
    got = [to_names(reason)[0] for reason, *_ in read_rows("| reason | the rule | to mend it |")]
    assert sorted(got) == sorted(want)


def list_parameters(document: dict, *paths: str) -> set[str]:
    return {
        parameter["name"]
        for path in paths
        for operation in document["paths"][path].values()
        for parameter in operation["parameters"]
        if parameter["in"] == "query"
    }


def test_every_parameter_of_get_data_has_its_row():
    document = get_data.description.build_description()
    rows = read_rows("| parameter | accepted | meaning |")
    assert {name for row in rows for name in to_names(row[0])} == list_parameters(
        document, *document["paths"]
    )
    formats = {
        to_names(name)[0]: to_names(media_type)[0]
        for name, media_type, _ in read_rows("| format | media type | what it is |")
    }
    assert formats == {form.name: form.media_type for form in get_data.formats.FORMATS.values()}


@pytest.mark.parametrize("description", [get_data.description, process_users.description])
def test_every_address_has_its_row(description: ModuleType):
    named = {name.partition("?")[0] for row in read_rows("| request | answer |") for name in to_names(row[0])}
    paths = description.build_description()["paths"]
    described = {
        f"{method.upper()} {path}".replace("{", "<").replace("}", ">")
        for path, methods in paths.items()
        for method in methods
    }
    assert described - named <= {"POST /"}


def test_every_parameter_of_a_run_has_its_row():
    document = process_users.description.build_description()
    assert set(re.findall(r"`POST /data\?(\w+)=true`", DOCUMENTATION)) == list_parameters(document, "/data")
    assert list_parameters(document, "/runs") <= set(re.findall(r"`(\w+)`", DOCUMENTATION))


@pytest.mark.parametrize(
    ("program", "from_env"),
    [
        ("process-users", process_users.settings.Settings.from_env),
        ("get-data", get_data.settings.Settings.from_env),
        ("make run", rollcall.stack.RunSettings.from_env),
        ("the scheduler", rollcall.scheduler.SchedulerSettings.from_env),
        ("set-up", rollcall.setup.SetupSettings.from_env),
    ],
)
def test_every_variable_is_explained(program: str, from_env: Callable[[Mapping[str, str]], object]):
    """Those of the functions in the table of settings, the others on any page."""
    text = DOCUMENTATION
    if program in ("process-users", "get-data"):
        text = "\n".join(row[0] for row in read_rows("| variable | default | for |"))
    assert sorted(read_variables(from_env) - set(to_names(text))) == []


def test_no_variable_is_explained_that_nobody_reads():
    read = set().union(
        read_variables(process_users.settings.Settings.from_env),
        read_variables(get_data.settings.Settings.from_env),
    )
    assert {name for row in read_rows("| variable | default | for |") for name in to_names(row[0])} <= read


def test_every_variable_of_containers_is_read_by_the_compose_file():
    example = (REPOSITORY / "local" / ".env.example").read_text()
    compose = (REPOSITORY / "local" / "docker-compose.yml").read_text()
    variables = set(re.findall(r"(?m)^(\w+)=", example))
    read = set(re.findall(r"\$\{(\w+)", compose))
    for_other_programs = {"PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGSSLMODE", "ROLLCALL_URL"}
    assert read <= variables
    assert variables - read <= for_other_programs


def test_every_event_of_the_logs_is_named():
    events = {name for name in first_texts("log", "log_error") if "." in name} | {"request"}
    _, _, rest = DOCUMENTATION.partition("## Logs\n\n")
    got = {name for name in to_names(rest.partition("\n\n")[0]) if "." in name or name == "request"}
    assert got == events


def test_every_metric_is_named():
    counted = {
        f"{name}_total" if kind == "Counter" else name
        for kind in ("Counter", "Histogram", "Gauge")
        for name in first_texts(kind)
    }
    rows = {name for row in read_rows("| metric | of | what |") for name in to_names(row[0])}
    assert rows == counted
    in_alerts = {
        name
        for text in re.findall(r"(?m)^  expr: (.+)$", DOCUMENTATION)
        for name in re.findall(r"rollcall_\w+", text)
    }
    assert in_alerts
    assert in_alerts <= counted


def list_targets() -> dict[str, bool]:
    """Return the targets of the Makefile, each with whether `make` tells about it."""
    makefile = (REPOSITORY / "Makefile").read_text()
    return {name: bool(told) for name, told in re.findall(r"(?m)^([a-z-]+):(?!=).*?(## .*)?$", makefile)}


def list_named_targets(text: str) -> set[str]:
    """Return the targets that a page names, in its text or in its commands."""
    return set(re.findall(r"(?m)(?:`|^)make ([a-z]+(?:-[a-z]+)*)", text))


def test_every_target_of_make_is_named():
    told = {name for name, told in list_targets().items() if told}
    assert told - list_named_targets(DOCUMENTATION) == {"help"}


@pytest.mark.parametrize("page", PAGES)
def test_no_target_is_named_that_there_is_not(page: str):
    assert set(list_named_targets(read_text(page))) <= list_targets().keys()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str):
    folder = (REPOSITORY / page).parent
    for target, heading in re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", read_text(page)):
        file = folder / target if target else REPOSITORY / page
        assert file.exists(), target
        assert not heading or heading in list_headings(file.read_text(encoding="utf-8")), heading


def list_headings(text: str) -> set[str]:
    """Return the headings of a page as links name them."""
    return {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"(?m)^#+ (.+)$", text)
    }


def test_every_module_is_on_the_map():
    _, _, text = read_text("local/README.md").partition("## The code\n")
    on_map = set(re.findall(r"[\w/]+\.py\b", text))
    names = {Path(name).name for name in on_map}
    for path in CODE:
        if "serving" not in path.parts:
            assert path.name in names, path
    assert names <= {path.name for path in CODE}
