# Rollcall. `make` lists the targets. What is in capitals can be set, like every setting of the documentation, before make or
# after its target: make run PYTHON=python3.13 GATEWAY_PORT=8081
PYTHON  ?= python3
VENV    ?= .venv
ENV_FILE ?= local/.env
COMPOSE_PROJECT ?= rollcall
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || command -v docker-compose)
JOBS    ?= auto
export ENV_FILE COMPOSE_PROJECT
# In small letters, so that none of them hides a variable that a program reads from the environment.
run_py   = env PYTHONPATH=functions:local "$(VENV)/bin/python"
here_py  = env PYTHONPATH=functions:local $(PYTHON)
stack    = $(COMPOSE) --project-name "$$COMPOSE_PROJECT" --env-file "$$ENV_FILE" --file local/docker-compose.yml
runtime  = functions/process-users/requirements.txt functions/get-data/requirements.txt \
           local/requirements.txt local/embedded-requirements.txt
tests    = tests/requirements.txt

secrets := $(foreach name,$(filter %TOKEN %PASSWORD %SECRET %ACCESS_KEY %SECRET_KEY,$(.VARIABLES)),$(if $(filter command,$(origin $(name))),$(name)))
ifneq ($(strip $(secrets)),)
$(error Every account of this machine can read the arguments of make: set $(strip $(secrets)) before it, as in $(firstword $(secrets))=... make $(MAKECMDGOALS))
endif
ifneq ($(words $(VENV)),1)
$(error VENV is '$(VENV)', wanted a directory whose path has no blanks)
endif

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-25s %s\n", $$1, $$2 }'
	@echo "Settings come before make or after the target, secrets only before: API_TOKEN=... make run GATEWAY_PORT=8081"

run: $(VENV)/.runtime ## the whole pipeline here and now, without Docker; Ctrl-C stops it
	@exec $(run_py) -m rollcall.run
upload: $(VENV)/.runtime ## put the .csv, .png, .jpg and .jpeg files of DIR=... into the source bucket
	@$(run_py) -m rollcall.upload
process: $(VENV)/.runtime ## start a run now and watch it; QUERY=dry_run=true, QUERY=full=true
	@$(run_py) -m rollcall.process

test: $(VENV)/.tests ## unit, integration and end-to-end tests; needs pgbouncer, no Docker
	"$(VENV)/bin/python" -m pytest -n $(JOBS) -m "not compose and not browser" tests/unit tests/integration tests/e2e tests/hostile
test-browser: $(VENV)/.tests ## the tests in Chromium (CHROMIUM, /usr/bin/chromium)
	"$(VENV)/bin/python" -m pytest -m browser tests/e2e tests/hostile
test-compose: $(VENV)/.tests docker ## the end-to-end tests of the compose stack
	"$(VENV)/bin/python" -m pytest -m compose tests/e2e
test-faults: $(VENV)/.tests ## crashes, races, outages, random histories and a soak, at length: an hour of work, shared by the cores
	"$(VENV)/bin/python" -m pytest -n $(JOBS) --dist worksteal tests/faults
test-faults-short: $(VENV)/.tests ## some of each of them, in minutes
	FAULTS_HISTORIES=$${FAULTS_HISTORIES:-40} FAULTS_KILLS=$${FAULTS_KILLS:-12} FAULTS_STEPS_APART=$${FAULTS_STEPS_APART:-9} \
	FAULTS_OUTAGES=$${FAULTS_OUTAGES:-18} FAULTS_SOAK_S=$${FAULTS_SOAK_S:-30} FAULTS_READERS=$${FAULTS_READERS:-40} \
	"$(VENV)/bin/python" -m pytest -n $(JOBS) --dist worksteal tests/faults
test-hostile: $(VENV)/.tests ## junk, cut exports, slow clients and attackers, at length; make test has a short form of it
	HOSTILE_CUTS=$${HOSTILE_CUTS:-100} HOSTILE_REQUESTS=$${HOSTILE_REQUESTS:-10000} \
	HOSTILE_RECORDS_A_KIND=$${HOSTILE_RECORDS_A_KIND:-40} HOSTILE_SLOW_READERS_S=$${HOSTILE_SLOW_READERS_S:-120} \
	"$(VENV)/bin/python" -m pytest -n $(JOBS) tests/hostile
bench: $(VENV)/.tests $(VENV)/dlt/.peer ## measure what is promised about speed and memory
	"$(VENV)/bin/python" -m pytest -s tests/bench
lint: $(VENV)/.tests ## ruff and basedpyright
	"$(VENV)/bin/ruff" check . && "$(VENV)/bin/ruff" format --check .
	"$(VENV)/bin/python" -m basedpyright --pythonpath "$(VENV)/bin/python"
format: $(VENV)/.tests ## put the code into its one form
	"$(VENV)/bin/ruff" check --fix . && "$(VENV)/bin/ruff" format .

local-up: python docker ## the pipeline in containers, with MinIO and pgAdmin; returns when all is healthy
	@$(PYTHON) -c 'import sys; sys.exit("This needs Python 3.9 or later: make local-up PYTHON=..." if sys.version_info < (3, 9) else 0)'
	@$(here_py) -m rollcall.env_file local/.env.example "$$ENV_FILE"
	@$(here_py) -m rollcall.ready --env-file "$$ENV_FILE" -- $(stack)
local-down: docker env ## stop the containers, keep the data
	$(stack) down --remove-orphans
local-reset: docker env ## stop the containers and remove their data
	$(stack) down --remove-orphans --volumes
local-logs: docker env python ## follow the logs of the containers
	@$(here_py) -m rollcall.terminal $(stack) logs --follow --tail 100
backup: docker env file ## write the database of the containers to FILE=...
	@umask 077 && $(stack) exec -T postgres pg_dump --username=postgres --format=custom rollcall > "$$FILE.part" \
	&& mv -- "$$FILE.part" "$$FILE"
restore: docker env file ## replace the database of the containers by that of FILE=...; the next run settles the difference
	@$(stack) exec -T postgres pg_restore --list < "$$FILE" > /dev/null
	@$(stack) exec -T postgres psql --username=postgres --quiet --command='drop database if exists rollcall with (force)'
	@$(stack) exec -T postgres pg_restore --username=postgres --no-owner --no-acl --create --dbname=postgres < "$$FILE"
	@$(MAKE) --no-print-directory local-up
file:
	@test -n "$$FILE" || { echo "Which file? As in: make $(MAKECMDGOALS) FILE=rollcall.dump" >&2; exit 1; }
python:
	@command -v "$(PYTHON)" >/dev/null || { echo "There is no $(PYTHON) here: name another one, as in make run PYTHON=python3.13" >&2; exit 1; }
docker:
	@test -n "$(COMPOSE)" || { echo "This needs Docker with its compose command (make run does not)." >&2; exit 1; }
	@why=$$(docker version 2>&1 >/dev/null) || { echo "$$why" >&2; echo "Start Docker, or see that you may use it; make run needs none." >&2; exit 1; }
env:
	@test -e "$$ENV_FILE" || { echo "There is no $$ENV_FILE yet: make local-up writes it." >&2; exit 1; }

screenshot: $(VENV)/.tests ## take the picture of the page that README shows (CHROMIUM)
	@env PYTHONPATH=functions:functions/process-users:local:tests "$(VENV)/bin/python" tests/e2e/screenshot.py local/images/page.png
audit: $(VENV)/.python ## look everything that is pinned up for known vulnerabilities; asks PyPI
	@$(PYTHON) -m venv "$(VENV)/audit" && "$(VENV)/audit/bin/python" -m pip install --quiet pip-audit==2.10.1
	"$(VENV)/audit/bin/pip-audit" --strict --disable-pip --require-hashes $(runtime:%=-r %)
requirements: $(VENV)/.runtime ## compile pyproject.toml to the pinned, hashed requirements.txt files
	@"$(VENV)/bin/python" -m pip install --quiet uv==0.13.9 && PATH="$(VENV)/bin:$$PATH" sh local/compile-requirements
clean: python ## remove what make made here: the data of make run and the virtual environment
	@test ! -e "$(VENV)/.runtime" || $(run_py) -m rollcall.clean
	@$(PYTHON) local/make_venv.py --remove "$(VENV)"

$(VENV)/.python: | python
	@$(PYTHON) local/make_venv.py "$(VENV)" && touch $@
$(VENV)/.runtime: $(VENV)/.python $(runtime)
	@"$(VENV)/bin/python" -m pip install --quiet --require-hashes $(runtime:%=-r %) && touch $@
$(VENV)/.tests: $(VENV)/.runtime $(tests)
	@"$(VENV)/bin/python" -m pip install --quiet --require-hashes -r $(tests) && touch $@
$(VENV)/dlt/.peer: $(VENV)/.python tests/dlt-requirements.txt
	@"$(VENV)/bin/python" -m venv "$(VENV)/dlt" && "$(VENV)/dlt/bin/python" -m pip install --quiet --require-hashes -r tests/dlt-requirements.txt && touch $@
.PHONY: help run upload process test test-browser test-compose test-faults test-faults-short test-hostile bench lint format local-up local-down local-reset local-logs backup restore file python docker env screenshot audit requirements clean
