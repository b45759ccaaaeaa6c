# syntax=docker/dockerfile:1

# The image of `eventloader`. The configuration is mounted at /etc/eventloader/eventloader.toml; one that is elsewhere
# is named by EVENTLOADER_CONFIG rather than by `--config`, so that the health check reads it, too. Everything but /tmp
# can be read-only: the program writes its log to standard error, and the states of Singer taps to files in /tmp.
#
# There is no shell in it, no package manager, and no program but eventloader. Programs of `command` sources need an
# image of your own, of Debian 12 or later, which takes the binary from this one:
#
#     FROM python:3.13-slim-bookworm
#     COPY --from=eventloader /usr/bin/eventloader /usr/bin/eventloader
#     # … your programs, and from below: ENV, USER, HEALTHCHECK, ENTRYPOINT and CMD

FROM rust:1.95-bookworm AS builder
# Cargo features beside the usual ones: `otel` for traces.
ARG FEATURES=""
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY migrations migrations
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --features "$FEATURES" --bin eventloader && \
    cp target/release/eventloader /usr/local/bin/eventloader

# What the binary needs of a system is the C library and libgcc of the builder's Debian, and the certificates of public
# authorities. Both are in here; all else is linked into it.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=builder /usr/local/bin/eventloader /usr/bin/eventloader
# There is no PostgreSQL in the image, so a missing DATABASE_URL is an error.
ENV EVENTLOADER_NO_EMBEDDED=1
# By number: Kubernetes cannot tell of a name that it is not root.
USER 65532:65532
# Status page and metrics, where `[admin] listen` is 0.0.0.0:8080, which takes a token.
EXPOSE 8080
# Asks /healthz of the address in the configuration: whether the loops turn, not whether the database answers. What
# fails in the first two minutes does not count: the start waits a minute for a database that is not up yet, and then
# brings the schema up to date.
HEALTHCHECK --interval=10s --timeout=5s --start-period=2m --retries=3 CMD ["eventloader", "healthcheck"]
# The first SIGTERM drains for up to 8 s, and 15 s more are for writing down what was given up. Docker waits for 10 s
# unless told otherwise: `docker stop --time 30`.
STOPSIGNAL SIGTERM
ENTRYPOINT ["eventloader"]
CMD ["run"]
