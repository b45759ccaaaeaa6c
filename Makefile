# Every target does its own set-up on a fresh Debian machine, as root or as a user with sudo.
# rustup puts cargo here for users who have it only since `make setup`.
export PATH := $(PATH):$(HOME)/.cargo/bin
CARGO ?= cargo

.PHONY: help setup setup-tests build run test fuzz bench lint docs fmt

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: ## Install a C compiler, PostgreSQL's programs and Rust, where they are missing
	@./scripts/setup.sh

setup-tests: ## Install what the tests need besides: MariaDB, PgBouncer, Redis; unpack RabbitMQ 4 into the user's cache
	@./scripts/setup.sh tests

build: setup ## Build the optimised binary, target/release/eventloader
	$(CARGO) build --release --locked

run: setup ## Run examples/quickstart.toml on the embedded PostgreSQL; Ctrl-C stops
	$(CARGO) build --locked --bin eventloader --example event_server
	@./scripts/quickstart.sh

test: setup-tests ## Run all tests, on a private PostgreSQL that they start and stop themselves
	$(CARGO) test --locked

fuzz: setup ## Fuzz TARGET=page (configuration, headers, pointer, stream) for SECONDS=60
	./scripts/fuzz.sh $(or $(TARGET),page) $(or $(SECONDS),60)

bench: setup-tests ## Measure: from each broker into events, beside the broker's plain client
	EVENTLOADER_BENCH=1 $(CARGO) test --release --locked --test eventloader_tests bench -- --ignored --nocapture --test-threads=1

lint: setup ## Check format, lints and docs
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items

docs: setup ## Write the pages anew that the program itself knows: docs/configuration.md, docs/check.md
	$(CARGO) build --locked --quiet --bin eventloader
	./scripts/docs.sh

fmt: ## Format the code
	$(CARGO) fmt
