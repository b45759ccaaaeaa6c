# syntax=docker/dockerfile:1
# The image of `eventloader`. The configuration is mounted at /etc/eventloader/eventloader.toml; everything but /tmp can be
# read-only: the program writes its log to standard error, and the states of Singer taps to files in /tmp. Programs of
# `command` sources are not in it: build an image of your own from this one.

FROM rust:1.95-bookworm AS builder
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY migrations migrations
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin eventloader && \
    cp target/release/eventloader /usr/local/bin/eventloader

FROM debian:bookworm-slim
RUN apt-get update && \
    apt-get install -y --no-install-recommends ca-certificates && \
    rm -rf /var/lib/apt/lists/* && \
    groupadd --system --gid 65532 eventloader && \
    useradd --system --uid 65532 --gid 65532 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin eventloader
COPY --from=builder /usr/local/bin/eventloader /usr/bin/eventloader
# There is no PostgreSQL in the image, so a missing DATABASE_URL is an error.
ENV EVENTLOADER_NO_EMBEDDED=1
USER 65532:65532
# The first SIGTERM drains for up to 8 s; Docker waits for 10 s.
STOPSIGNAL SIGTERM
# No HEALTHCHECK: the program has no command or address to ask for its health yet.
ENTRYPOINT ["eventloader"]
CMD ["run"]
