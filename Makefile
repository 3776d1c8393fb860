# The two commands of the README, and what CI runs beside them.
#   make quickstart   a worker, some tasks and their results, without any server
#   make test         every test; starts private servers, needs no running ones
#   make sqlalchemy   results in SQLite with the oldest SQLAlchemy that is supported
#   make brokers      a worker on every broker that can be had here
#   make stores       result back-ends on emulators from npm, which take minutes to install

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
NPM_STORES := couchdb or azureblockblob or cosmosdbsql

.PHONY: quickstart test unit servers stores sqlalchemy brokers interop faults lint types contracts docs checks environment clean

quickstart: $(STAMPS)/package
	$(BIN)/python examples/quickstart/run.py

# The unit tests need nothing of what is installed meanwhile; the others wait more than they compute.
test: $(STAMPS)/test
	$(MAKE) -j 3 unit servers $(STAMPS)/emulators
	$(BIN)/python -m pytest t/contract t/integration t/faults -n 4 --dist loadfile

unit: $(STAMPS)/test
	$(BIN)/python -m pytest t/unit -n 2

# Redis, RabbitMQ, PostgreSQL, memcached and etcd: used where found, installed where apt can, skipped aloud elsewhere.
servers:
	@sh t/harness/install-servers.sh

# The emulators of CouchDB, Azure and Cosmos DB are 290 MB in 1,000 packages: `make test` runs these
# tests where the emulators are, and skips them elsewhere; here their absence is an error.
stores: $(STAMPS)/test
	CI=true T_STORES=1 $(BIN)/python -m pytest t/contract/test_backend.py t/contract/test_stores.py -k "$(NPM_STORES)"

# In a folder of its own, put in front of the one that is installed.
sqlalchemy: $(STAMPS)/test
	$(BIN)/python -m pip install -q --upgrade --target $(VENV)/sqlalchemy-1.4 'SQLAlchemy>=1.4.48,<2'
	PYTHONPATH=$(CURDIR)/$(VENV)/sqlalchemy-1.4 $(BIN)/python -c "import sqlalchemy as s; assert s.__version__[:3] == '1.4'"
	PYTHONPATH=$(CURDIR)/$(VENV)/sqlalchemy-1.4 $(BIN)/python -m pytest t/contract/test_backend.py t/integration/backends/test_database_backend.py -k sqlite

# All brokers that can be had, also those that CI machines do not have.
brokers: $(STAMPS)/test
	$(BIN)/python -m pip install -q -r requirements/test-brokers.txt
	@sh t/harness/install-servers.sh zookeeper
	T_LONG=1 T_STORES=1 $(BIN)/python -m pytest t/integration/brokers

interop: $(STAMPS)/test $(STAMPS)/emulators
	@sh t/harness/install-servers.sh chromium
	$(BIN)/python -m pytest t/interop -n 3 --dist loadfile

faults: $(STAMPS)/test servers
	$(BIN)/python -m pytest t/faults --long-faults

lint: $(STAMPS)/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check celery t setup.py examples
	$(BIN)/codespell celery t docs examples README.rst CHANGELOG.rst
	$(BIN)/vulture

types: $(STAMPS)/lint $(STAMPS)/test $(STAMPS)/docs
	$(BIN)/mypy

contracts: $(STAMPS)/lint
	$(BIN)/lint-imports

# What reads the tree and runs nothing of it.
checks: lint types contracts docs

# All that is installed for those and for the tests, so that both can go on side by side.
environment: $(STAMPS)/test $(STAMPS)/lint $(STAMPS)/docs

docs: $(STAMPS)/docs
	$(BIN)/sphinx-build -q -W -b html docs docs/_build

clean:
	rm -rf build dist docs/_build .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || { \
	  echo "Cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"; \
	  rm -rf $(VENV); exit 1; }
	mkdir -p $(STAMPS)

$(STAMPS)/package: $(BIN)/python setup.py requirements/default.txt
	$(BIN)/python -m pip install -q -e .
	mkdir -p $(STAMPS) && touch $@

$(STAMPS)/test: $(STAMPS)/package requirements/test.txt
	$(BIN)/python -m pip install -q -r requirements/test.txt
	touch $@

# Some take minutes to install, for which no test should wait.
$(STAMPS)/emulators: $(STAMPS)/test t/harness/emulators.py
	$(BIN)/python -m t.harness.emulators
	touch $@

$(STAMPS)/lint: $(BIN)/python requirements/lint.txt
	$(BIN)/python -m pip install -q -r requirements/lint.txt
	mkdir -p $(STAMPS) && touch $@

$(STAMPS)/docs: $(STAMPS)/package requirements/docs.txt
	$(BIN)/python -m pip install -q -r requirements/docs.txt
	touch $@
