# Every target does its own set-up on a fresh Debian machine, as root or as a user with sudo.
# rustup puts cargo here for users who have it only since `make setup`.
export PATH := $(PATH):$(HOME)/.cargo/bin
CARGO ?= cargo

.PHONY: help setup setup-tests setup-deny build run test chaos fuzz bench lint deny docs fmt

# The program with the places where the fault campaign ends or freezes it, which no release has, and with traces.
CHAOS := --locked --features chaos,otel

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: ## Install a C compiler, PostgreSQL's programs and Rust, where they are missing
	@./scripts/setup.sh

setup-tests: ## Install what the tests need besides: MariaDB, PgBouncer, Redis, libfaketime, Prometheus, Chromium; unpack RabbitMQ 4 into the user's cache
	@./scripts/setup.sh tests

setup-deny:
	@./scripts/setup.sh deny

build: setup ## Build the optimised binary, target/release/eventloader
	$(CARGO) build --release --locked

run: setup ## Run examples/quickstart.toml on the embedded PostgreSQL; Ctrl-C stops
	$(CARGO) build --locked --bin eventloader --example event_server
	@./scripts/quickstart.sh

test: setup-tests ## Run all tests, on a private PostgreSQL that they start and stop themselves
	$(CARGO) test $(CHAOS)

chaos: setup-tests ## The fault campaign's long form: SEED=1 FAULTS=3000 SECONDS=1200 STARTS=200; target/chaos/SEED has its history
	$(CARGO) test --release $(CHAOS) --test eventloader_tests chaos::long:: -- --ignored --skip recheck --nocapture --test-threads=1

# ROWS=move,latency picks rows; EVENTLOADER_BENCH_MINUTES is how long a snapshot is held, 3 or 30.
bench: setup-tests ## Measure, beside plain SQL and plain clients: a table here, and target/bench.json; ROWS=… picks
	EVENTLOADER_BENCH=1 ROWS=$(ROWS) $(CARGO) test --release --locked --test eventloader_tests bench:: -- --ignored --nocapture --test-threads=1

fuzz: setup ## Fuzz TARGET=page (configuration, file, headers, pointer, stream) for SECONDS=60
	./scripts/fuzz.sh $(or $(TARGET),page) $(or $(SECONDS),60)

lint: setup ## Check format, lints and docs
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy $(CHAOS) --all-targets -- -D warnings
	$(CARGO) metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items

deny: setup-deny ## Check the dependencies: licences, what is refused, where they come from, advisories (needs github.com)
	@./scripts/deny.sh

docs: setup ## Write the pages anew that the program itself knows: docs/configuration.md, docs/check.md
	$(CARGO) build --locked --quiet --bin eventloader
	./scripts/docs.sh

fmt: ## Format the code
	$(CARGO) fmt
