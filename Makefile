# rkeyserver. `make demo` and `make test` are the two commands of a fresh machine; `make` alone builds into out/.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
COVERAGE := 95

.PHONY: all out enclave enclave-show demo test test-sgx test-domain check bench bench-domain fuzz model lint venv clean

all: out

$(VENV)/.ready: requirements/dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is wanted; $(PYTHON) is $$($(PYTHON) --version)."; exit 2; }
	$(PYTHON) -m venv --clear $(VENV) || { echo "Install python3-venv first (Debian: apt-get install python3-venv)."; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	touch $@

# What only the tests of packaging/ are run with: a hundred megabytes, which `make` and `make demo` do without.
$(VENV)/.packaging: requirements/packaging.lock $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/packaging.lock
	touch $@

venv: $(VENV)/.ready $(VENV)/.packaging

# Made anew each time, in half a second (the libraries only when their lock has changed): no list of sources to forget one.
out: $(VENV)/.ready
	PYTHONPATH=src $(BIN)/python tools/build-out.py out

# The server in an SGX enclave (docs/operations/enclave.md). It takes the place of the program that `make` builds.
# What is measured into it is named on the command line; a variable of the environment says nothing here.
ADMINS   =
RECOVERY =
SEAL     = mrsigner
FORMER   =
KEY      =
enclave: $(VENV)/.ready
	@PYTHONPATH=src $(BIN)/python tools/build-enclave.py out --seal "$(SEAL)" $(if $(ADMINS),--admins "$(ADMINS)") \
	  $(if $(RECOVERY),--recovery "$(RECOVERY)") $(foreach one,$(FORMER),--former-signer "$(one)") \
	  $(if $(KEY),--key "$(KEY)")

# The four values of a signature: what was built here, or with SIG=FILE another's.
SIG = out/rkeyserver/rkeyserver.sig
enclave-show: $(VENV)/.ready
	@PYTHONPATH=src $(BIN)/python tools/build-enclave.py --show "$(SIG)"

# Needs no root, sends to loopback only, and leaves nothing but out/ and .venv/.
demo: out
	PYTHONPATH=src $(BIN)/python tools/demo.py out

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=src $(BIN)/lint-imports

# A floor for branches and lines together; what the processes of the tests run counts too.
check: venv
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term-missing:skip-covered --cov-fail-under=$(COVERAGE)

# What callers are measured beside: PyKMIP, and a way to SoftHSM. They share a venv with nothing that is tested.
BENCH := $(VENV)-bench
$(BENCH)/.ready: requirements/dev.lock requirements/bench.lock
	$(PYTHON) -m venv --clear $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.lock
	touch $@

# Four minutes, on an otherwise idle machine; docs/measured.md says what was found and how. As root it has a second user.
bench: out $(BENCH)/.ready
	tools/install-bench-tools
	PYTHONPATH=src:. $(BENCH)/bin/python -m bench.run out/rkeyserver/rkeyserver
	PYTHONPATH=src:. $(BENCH)/bin/python -m bench.callers out/rkeyserver/rkeyserver
	PYTHONPATH=src:. $(BENCH)/bin/python -m bench.turns

# What callers see of the death of a primary, and what 200 standbys cost it: five minutes. docs/measured.md.
bench-domain: out $(VENV)/.ready
	PYTHONPATH=src:. $(BIN)/python -m bench.failover out/rkeyserver/rkeyserver
	PYTHONPATH=src:. $(BIN)/python -m bench.standbys out/rkeyserver/rkeyserver

# What the tests run against is real: it is installed here, and its absence is a failure, not a skip.
test:
	tools/install-test-tools
	$(MAKE) lint check

# Hand-over, attacks and crash safety once more, all of it, on sgx over its stand-in; docs/testing.md says what of it is
# in `make check` too.
test-sgx: venv
	timeout 20m $(BIN)/python -m pytest -n 2 -m sgx

# Domains of several machines: everything that cuts, kills and stops them, and the long ways that `make check` leaves out.
test-domain: venv
	timeout 20m $(BIN)/python -m pytest -n 2 -m "walk or not second" tests/integration/test_partitions.py \
	  tests/integration/test_generations.py tests/property/test_domain_walks.py

# Hostile input to every parser, for as long as that; docs/testing.md says how to read what it prints.
FUZZ_SECONDS ?= 600
fuzz: venv
	PYTHONPATH=src:. FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m tests.property.fuzz

# Promotion, reunion and the lease within wider bounds than the tests have; docs/spec/model.md says what that proves.
model: venv
	PYTHONPATH=src:. timeout 60m $(BIN)/python -m tests.model

clean:
	rm -rf out build $(VENV) $(BENCH)
