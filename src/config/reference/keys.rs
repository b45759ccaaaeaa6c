//! The words for every section and key. A test keeps them and what is read the same, in both directions.
//!
//! A new key needs one row here: [`shown`] where its value may stand in messages and in `config show` wherever it is
//! written, else [`secret`]. Type and range are not said: they are noted by the conversion that reads the key.

use super::{Default, Key};
use Default::{Is, None, Of};

/// Tables in the order of the reference. `sources.TYPE` are the types of sources.
#[rustfmt::skip]
pub(super) const SECTIONS: &[(&str, &str)] = &[
    ("database", "The PostgreSQL in which everything is coordinated and, by default, kept. Where no URL is given at all, a \
                  private PostgreSQL is started."),
    ("loader", "The loader of this instance, and the defaults of every source."),
    ("retry_worker", "Moving events from the inbox to the event log."),
    ("request_log", "How long finished requests are kept in the request log, and whether `eventloader run` prunes them."),
    ("storage", "Another PostgreSQL for the events, where they are not to be in `[database]`."),
    ("admin", "Health, metrics and status over HTTP."),
    ("sources", "What events are taken from. Each source has a table of its own, whose key is the name of the source, and a \
                 `type`, which decides what its other keys are."),
    ("sources.http", "An HTTP API that answers pages of JSON, asked as `GET url?after_id=41&limit=1000`."),
    ("sources.http.auth.bearer", "A token, sent as `Authorization: Bearer …`."),
    ("sources.http.auth.basic", "A user name and a password."),
    ("sources.http.auth.header", "A header of any name."),
    ("sources.http.auth.oauth2", "A token that is fetched with client credentials (RFC 6749, section 4.4), and fetched anew \
                                  before it runs out."),
    ("sources.file", "A file of newline-delimited JSON, followed as it grows and is rotated."),
    ("sources.sql", "A table, a view or a query of PostgreSQL, MariaDB, MySQL or SQLite. docs/sql_source.md says what becomes \
                     of its values, and what is promised."),
    ("sources.command", "Any program that prints newline-delimited JSON, or a Singer tap. docs/command_source.md says how \
                         it is run."),
    ("sources.amqp", "A queue of RabbitMQ, or another broker of AMQP 0-9-1. Several instances share it as competing \
                      consumers."),
    ("sources.rabbitmq_stream", "A stream of RabbitMQ 3.9 or later, whose offsets are the ids. Of a super stream, each \
                                 partition is a stream of its own name, and so a source of its own. It may be read \
                                 over either protocol, and over the other one later: nothing is lost or repeated. `payload`, \
                                 `event_type` and the like are places in the body."),
    ("sources.kafka", "One topic of Kafka, read as a member of a consumer group. docs/kafka_source.md says what becomes of its \
                       messages."),
    ("sources.redis_stream", "A stream of Redis 7 or later, or Valkey, read by a consumer group that several instances share. \
                              docs/redis_stream_source.md says how entries become events."),
];

/// Every key. The place `sources` stands for each type that has no row of its own for the key.
#[rustfmt::skip]
pub(super) const KEYS: &[Key] = &[
    secret("database", "url", None, "Where it is; also `--database-url` and `DATABASE_URL`. Left out or empty: a private \
            PostgreSQL in `EVENTLOADER_DATA_DIR`.").such_as("\"${DATABASE_URL}\""),
    shown("database", "max_connections", Is("10"), "The most connections this instance opens; fewer than 3 count as 3."),

    shown("loader", "concurrency", Is("64"), "The most requests this instance has in flight, over all sources."),
    shown("loader", "batch_size", Is("1000"), "The most events one request asks for."),
    shown("loader", "min_interval", Is("\"200ms\""), "The least time between two requests to one source, over all \
           instances."),
    shown("loader", "lease_ttl", Is("\"2s\""), "How long a lease lasts without a heartbeat; the sources of an instance that \
           died are taken over after it."),
    shown("loader", "max_idle", Is("\"5s\""), "The longest pause between two requests to a source that has nothing new. At \
           least `min_interval`; where it is left out and `min_interval` is longer, that."),

    shown("loader", "allow_hosts", None, "The names and networks that `http` sources may be on. Left out: all but cloud \
           metadata services, link-local and multicast addresses.").such_as("[\"*.example.com\"]"),

    shown("retry_worker", "batch_size", Is("1000"), "The most inbox rows one statement moves."),
    shown("retry_worker", "max_attempts", Is("5"), "How often an event is tried before it becomes a dead letter."),

    shown("request_log", "prune_every", None, "How often `eventloader run` prunes. Left out: never, \
           `eventloader prune-request-log` does it.").such_as("\"1h\""),
    shown("request_log", "succeeded_days", Is("7"), "How many days succeeded requests are kept."),
    shown("request_log", "failed_days", Is("30"), "How many days requests are kept that failed and were retried or skipped."),
    shown("request_log", "archive", Is("false"), "Whether they are moved to the archive instead of being deleted."),
    shown("request_log", "months_ahead", None, "Months of the archive, this one included, that `eventloader run` keeps \
           partitions for. Only with `archive`; left out: 3."),

    secret("storage", "url", None, "Where it is. Left out or empty: the database of `[database]`.")
        .such_as("\"${STORAGE_URL}\""),

    shown("admin", "listen", Is("\"127.0.0.1:8080\""), "Where to listen; port 0 takes a free one. Off loopback \
           only with a token."),
    secret("admin", "token", None, "Who shows it may read everything, and pause, resume, retry and skip. Left out: what is \
            read needs none, and nothing can be changed.").such_as("\"${ADMIN_TOKEN}\""),
    shown("admin", "hosts", None, "Names under which it is reached, such as that of a proxy in front of it. Requests for other \
           names are refused; off loopback, with this left out, they are not.").such_as("[\"events.example.com\"]"),

    shown("sources", "type", None, "What it is."),
    shown("sources", "batch_size", Of("loader"), "The most events one request asks for."),
    shown("sources", "min_interval", Of("loader"), "The least time between two requests, over all instances."),
    shown("sources", "lease_ttl", Of("loader"), "How long the lease lasts without a heartbeat; the source of an instance \
           that died is taken over after it."),
    shown("sources", "max_idle", Of("loader"), "The longest pause between two requests when there is nothing new. At least \
           `min_interval`; where it is left out and `min_interval` is longer, that."),
    shown("sources", "on_failure", Is("\"hold\""), "What follows a request whose outcome is unknown: `hold` waits for \
           `eventloader requests retry`, `retry` asks again by itself, up to 5 attempts."),
    shown("sources", "start_after", Is("0"), "The id after which a source begins that has never been loaded."),
    shown("sources", "id", Is("\"/id\""), "Where in an item its id is: an integer that increases from item to item."),
    shown("sources", "event_type", None, "Where in an item the type of the event is. Left out: the type is the name of the \
           source.").such_as("\"/type\""),
    shown("sources", "occurred_at", None, "Where in an item the time of the event is.").such_as("\"/created_at\""),
    shown("sources", "message_id", None, "Where in an item its UUID is.").such_as("\"/uuid\""),
    shown("sources", "payload", Is("\"\""), "Where in an item the payload is; `\"\"` is the whole item."),
    shown("sources", "max_event_bytes", Is("\"1MiB\""), "The most bytes an event may have; a larger one becomes a dead \
           letter."),
    shown("sources", "max_page_bytes", Is("\"64MiB\""), "The most bytes a page may have; a larger one is refused. At least \
           `max_event_bytes`."),

    secret("sources.http", "url", None, "Where events are asked for. The last id and the limit are added to its query.")
        .such_as("\"https://shop.example.com/api/events\""),
    secret("sources.http", "headers", None, "Further headers of every request.")
        .such_as("{ Accept-Language = \"en\" }"),
    secret("sources.http.headers", "*", None, "The value of the header of that name.").such_as("\"en\""),
    secret("sources.http", "auth", None, "Who asks: a table with a `type` and its keys.")
        .such_as("{ type = \"bearer\", token = \"${SHOP_TOKEN}\" }"),
    shown("sources.http.auth", "type", None, "How the source is told who asks."),
    secret("sources.http.auth.bearer", "token", None, "The token.").such_as("\"${SHOP_TOKEN}\""),
    secret("sources.http.auth.basic", "username", None, "The user.").such_as("\"eventloader\""),
    secret("sources.http.auth.basic", "password", None, "The password.").such_as("\"${SHOP_PASSWORD}\""),
    secret("sources.http.auth.header", "name", None, "The header's name.").such_as("\"X-Api-Key\""),
    secret("sources.http.auth.header", "value", None, "Its value.").such_as("\"${SHOP_TOKEN}\""),
    secret("sources.http.auth.oauth2", "token_url", None, "Where tokens are fetched.")
        .such_as("\"https://login.example.com/oauth/token\""),
    secret("sources.http.auth.oauth2", "client_id", None, "The client.").such_as("\"eventloader\""),
    secret("sources.http.auth.oauth2", "client_secret", None, "Its secret.").such_as("\"${CLIENT_SECRET}\""),
    secret("sources.http.auth.oauth2", "scope", None, "The scopes asked for, separated by spaces.").such_as("\"events:read\""),
    secret("sources.http.auth.oauth2", "audience", None, "The audience asked for, where the server wants one.")
        .such_as("\"https://shop.example.com\""),
    shown("sources.http.auth.oauth2", "credentials", Is("\"header\""), "Where the client's id and secret are sent: in a \
           `header` (HTTP Basic), or in the `body`."),
    shown("sources.http", "after_param", Is("\"after_id\""), "The query parameter that takes the last id."),
    shown("sources.http", "limit_param", Is("\"limit\""), "The query parameter that takes the most events wanted; `\"\"`: it \
           is not sent."),
    shown("sources.http", "method", Is("\"GET\""), "How the source is asked."),
    secret("sources.http", "body", None, "The JSON text that a POST sends. The strings `\"{after_id}\"` and `\"{limit}\"` in \
            it become numbers; with `{after_id}` in it nothing is added to the query."),
    shown("sources.http", "ca_file", None, "PEM file of the authorities to trust, instead of the public ones.")
        .such_as("\"ca.pem\""),
    shown("sources.http", "client_cert_file", None, "PEM file of the certificate to show. With `client_key_file`."),
    shown("sources.http", "client_key_file", None, "PEM file of its key. With `client_cert_file`."),
    secret("sources.http", "proxy", None, "The proxy to go through. Those of the environment are not used.")
        .such_as("\"http://proxy.example.com:3128\""),
    shown("sources.http", "allow_hosts", Of("loader"), "The names and networks that the source may be on. With a list, \
           private addresses need their network in it, too."),
    shown("sources.http", "allow_insecure", Is("false"), "Whether credentials may be sent over `http://` to another machine."),
    shown("sources.http", "tip_lag", None, "How far to stay behind the newest events of an API whose ids become visible out \
           of order. Needs `occurred_at`; an event without a time, or dated further ahead than this, counts as old. Left \
           out: not at all."),
    shown("sources.http", "items", Is("\"\""), "Where in the body the array of items is; `\"\"`: the body is the array.")
        .such_as("\"/events\""),
    shown("sources.http", "timeout", Is("\"30s\""), "The longest a whole request may take, until the last byte of the \
           answer."),

    shown("sources.file", "path", None, "The file. A relative path begins at the directory of the configuration file.")
        .such_as("\"/var/log/audit.ndjson\""),
    shown("sources.file", "max_page_bytes", Is("\"64MiB\""), "The most bytes read at once. At least `max_event_bytes`."),

    shown("sources.command", "mode", Is("\"lines\""), "What the program prints: `lines` of events with ids, or the messages \
           of a `singer` tap."),
    secret("sources.command", "command", None, "The program and its arguments, run without a shell. `{after_id}` and \
            `{limit}` are filled in; in singer mode `{state}`, the path of a file.")
        .such_as("[\"python3\", \"fetch.py\", \"{after_id}\", \"{limit}\"]"),
    shown("sources.command", "directory", None, "Where it runs. A relative path begins at the directory of the configuration \
           file, which is the default."),
    secret("sources.command", "environment", None, "Further variables for the program, which gets `PATH`, `HOME`, `LANG`, \
            `TZ` and `TMPDIR` of this process, and no others.").such_as("{ API_TOKEN = \"${SHOP_TOKEN}\" }"),
    secret("sources.command.environment", "*", None, "The value of the variable of that name.")
        .such_as("\"${SHOP_TOKEN}\""),
    shown("sources.command", "timeout", Is("\"30s\""), "The longest one request may take."),
    shown("sources.command", "id", Is("\"/id\""), "Where in a line its id is. Not in singer mode, where records are numbered \
           in the order they come."),
    shown("sources.command", "max_page_bytes", Is("\"64MiB\""), "The most output for one page. At least `max_event_bytes`."),

    secret("sources.sql", "url", None, "The database: `postgres://`, `mysql://`, `mariadb://`, or `sqlite://` and the path of a \
            file.").such_as("\"postgres://reader:${SHOP_TOKEN}@db.example.com/billing\""),
    shown("sources.sql", "table", None, "The table or view, perhaps with its schema before a dot. Either this or `query`.")
        .such_as("\"events\""),
    shown("sources.sql", "query", None, "One select with `{after_id}` and `{limit}` in it, such as `select … where id > \
           {after_id} order by id limit {limit}`."),
    shown("sources.sql", "id", Is("\"id\""), "The column of the id: an integer that increases from row to row."),
    shown("sources.sql", "event_type", None, "The column of the event's type. Left out: the type is the name of the source.")
        .such_as("\"kind\""),
    shown("sources.sql", "occurred_at", None, "The column of the event's time.").such_as("\"created_at\""),
    shown("sources.sql", "message_id", None, "The column of its UUID.").such_as("\"uuid\""),
    shown("sources.sql", "payload", None, "The column of the payload. Left out: the whole row, as an object.")
        .such_as("\"body\""),
    shown("sources.sql", "timeout", Is("\"30s\""), "The longest a statement may take."),
    shown("sources.sql", "tip_lag", None, "How long ago an id at or above an event's has to have been seen. Left out: 2s for \
           MariaDB and MySQL, whose writers cannot be seen, else 0s.").such_as("\"2s\""),
    shown("sources.sql", "max_page_bytes", Is("\"64MiB\""), "A page ends before it is larger. At least `max_event_bytes`."),

    secret("sources.amqp", "url", None, "The broker, and its virtual host after the port: `amqp://`, or `amqps://` for TLS. \
            `?heartbeat=` (seconds, default 10) and `?connection_timeout=` (milliseconds, default 10000) may follow.")
        .such_as("\"amqps://app:${SHOP_TOKEN}@mq.example.com:5671/%2f\""),
    shown("sources.amqp", "queue", None, "The queue. It has to be there, unless `declare` is set.").such_as("\"payments\""),
    shown("sources.amqp", "prefetch", Is("1000"), "The most messages that are here and not acknowledged; fewer where their \
           bodies, by the sizes of the last ones, would take more than 64 MiB. A batch has at most half of them, so that one is received while one is stored."),
    shown("sources.amqp", "declare", None, "Whether the queue, durable, and its `bindings` are created where they are \
           missing. One that is there and differs is refused. Left out: nothing is created.").such_as("true"),
    shown("sources.amqp", "queue_type", None, "The type of a queue that is declared. Left out: what the broker makes of it.")
        .such_as("\"quorum\""),
    shown("sources.amqp", "bindings", None, "What the declared queue is bound to: a routing key for each exchange, which has \
           to be there.").such_as("{ orders = \"order.#\" }"),
    shown("sources.amqp.bindings", "*", None, "The routing key, or pattern, of the exchange of that name.")
        .such_as("\"order.#\""),
    shown("sources.amqp", "missing_id", Is("\"reject\""), "What follows a message without a UUID: `reject` makes it a dead \
           letter; `hash` makes one of its id, else of its body, so that equal bodies are one event."),
    shown("sources.amqp", "ca_file", None, "PEM file of the authorities to trust, instead of the public ones.")
        .such_as("\"ca.pem\""),
    shown("sources.amqp", "client_cert_file", None, "PEM file of the certificate to show. With `client_key_file`."),
    shown("sources.amqp", "client_key_file", None, "PEM file of its key. With `client_cert_file`."),
    shown("sources.amqp", "batch_size", Is("1000"), "The most messages that are stored and acknowledged together."),
    shown("sources.amqp", "linger", Is("\"5ms\""), "How long a batch waits for more after its first message."),
    shown("sources.amqp", "dedup_retention", Is("\"30d\""), "How long message ids are remembered. Whatever comes again \
           later, with the id of an event of the same stream, is a dead letter (`conflict`)."),
    shown("sources.amqp", "event_type", None, "Where in the body the type is. Left out: the property `type`, else \
           `/message_name` in the body, else the routing key.").such_as("\"/kind\""),
    shown("sources.amqp", "message_id", None, "Where in the body the UUID is. Left out: the property `message_id`, else \
           `/message_id` in the body.").such_as("\"/uuid\""),
    shown("sources.amqp", "occurred_at", None, "Where in the body the time is. Left out: the property `timestamp`.")
        .such_as("\"/created_at\""),
    shown("sources.amqp", "payload", None, "Where in the body the payload is; `\"\"` is the whole body, of any type. Left out: \
           `/payload`, else the whole body, an object.").such_as("\"/data\""),

    secret("sources.rabbitmq_stream", "url", None, "The broker: `rabbitmq-stream://` (port 5552) or `rabbitmq-stream+tls://` \
            (5551), or, where the stream port is closed or the plugin off, `amqp://` (5672) or `amqps://` (5671). The path \
            is the virtual host; `/%2f`, the usual one, may be left out.")
        .such_as("\"rabbitmq-stream+tls://app:${SHOP_TOKEN}@mq.example.com:5551/%2f\""),
    shown("sources.rabbitmq_stream", "stream", None, "The stream, or one partition of a super stream.")
        .such_as("\"clicks\""),
    shown("sources.rabbitmq_stream", "timeout", Is("\"10s\""), "The longest that the broker may take for an answer, and that \
           it may be silent."),
    shown("sources.rabbitmq_stream", "ca_file", None, "PEM file of the authorities to trust, instead of those that the \
           machine trusts.").such_as("\"ca.pem\""),
    shown("sources.rabbitmq_stream", "start_after", Is("-1"), "The offset after which a source begins that has never been \
           loaded; -1: at the first message."),
    shown("sources.rabbitmq_stream", "event_type", None, "Where in the body the type of the event is. Left out: the message's \
           subject (AMQP 1.0) or type (AMQP 0-9-1), else the name of the source.").such_as("\"/type\""),
    shown("sources.rabbitmq_stream", "message_id", None, "Where in the body its UUID is. Left out: the message's id, if that \
           is a UUID.").such_as("\"/uuid\""),
    shown("sources.rabbitmq_stream", "occurred_at", None, "Where in the body the time of the event is. Left out: the \
           message's time, if it has one.").such_as("\"/created_at\""),
    shown("sources.rabbitmq_stream", "payload", None, "Where in the body the payload is; `\"\"` is the whole body, any JSON. \
           Left out: the body has to be an object, and its member `payload` is taken where there is one.")
        .such_as("\"/data\""),
    shown("sources.rabbitmq_stream", "max_event_bytes", Is("\"1MiB\""), "The most bytes a body may have; a larger message \
           becomes a dead letter."),

    shown("sources.kafka", "brokers", None, "The brokers that are asked first, as `HOST:PORT`; they name the others.")
        .such_as("[\"localhost:9092\"]"),
    shown("sources.kafka", "topic", None, "The topic. Two sources cannot read topics of the same name.").such_as("\"metrics\""),
    shown("sources.kafka", "group", Is("\"eventloader\""), "The consumer group, whose members share the partitions."),
    shown("sources.kafka", "read_from", Is("\"beginning\""), "Where a group without committed offsets begins if nothing \
           of the topic is stored: `beginning`, or `group_created` for what is published from then on."),
    shown("sources.kafka", "tls", Is("false"), "Whether connections are encrypted. Needs a build with the cargo feature \
           `kafka-tls`."),
    shown("sources.kafka", "ca_file", None, "The certificates that are trusted instead of the machine's own, as PEM. Only with \
           `tls`."),
    shown("sources.kafka", "username", None, "Who logs in (SASL)."),
    secret("sources.kafka", "password", None, "The password of `username`."),
    shown("sources.kafka", "mechanism", Is("\"plain\""), "How the user logs in. `scram-sha-256` and `scram-sha-512` need a \
           build with the cargo feature `kafka-tls`."),
    shown("sources.kafka", "batch_size", Is("1000"), "The most messages that are stored and acknowledged together."),
    shown("sources.kafka", "linger", Is("\"5ms\""), "How long a batch waits for more after its first message."),
    shown("sources.kafka", "dedup_retention", Is("\"30d\""), "How long message ids are remembered. Whatever comes again \
           later, with the id of an event of the same stream, is a dead letter (`conflict`)."),
    shown("sources.kafka", "event_type", None, "Where in the value its type is. Left out: the header `ce_type`, else `/type`, \
           else the topic.").such_as("\"/kind\""),
    shown("sources.kafka", "message_id", None, "Where in the value its UUID is. Left out: the header `ce_id`, else \
           `/message_id`.").such_as("\"/id\""),
    shown("sources.kafka", "occurred_at", None, "Where in the value its time is. Left out: the header `ce_time`.")
        .such_as("\"/created_at\""),
    shown("sources.kafka", "payload", Is("\"\""), "Where in the value the payload is; `\"\"` is the whole value."),

    secret("sources.redis_stream", "url", None, "The server: `redis://`, or `rediss://` for TLS; the number of the database may \
            follow the port.").such_as("\"rediss://app:${SHOP_TOKEN}@redis.example.com:6379/0\""),
    shown("sources.redis_stream", "stream", None, "The key of the stream.").such_as("\"user-events\""),
    shown("sources.redis_stream", "group", Is("\"eventloader\""), "The consumer group. It is made where it is missing."),
    shown("sources.redis_stream", "read_from", Is("\"beginning\""), "Where a group that is made begins: at the `beginning` of \
           the stream, or, with `group_created`, at what is added after it was made."),
    shown("sources.redis_stream", "retry_after", Is("\"60s\""), "How long an instance may show no life before the entries it \
           had in work are taken over by another."),
    shown("sources.redis_stream", "ca_file", None, "PEM file of the authorities to trust, instead of those of the machine.")
        .such_as("\"ca.pem\""),
    shown("sources.redis_stream", "batch_size", Is("1000"), "The most entries that are stored and acknowledged together."),
    shown("sources.redis_stream", "linger", Is("\"5ms\""), "How long a batch waits for more after its first entry."),
    shown("sources.redis_stream", "dedup_retention", Is("\"30d\""), "How long message ids are remembered. Whatever comes again \
           later, with the id of an event of the same stream, is a dead letter (`conflict`)."),
    shown("sources.redis_stream", "event_type", None, "Where in the body the type is. Left out: the field `type`, else `/type` in \
           the body, else the name of the stream.").such_as("\"/kind\""),
    shown("sources.redis_stream", "message_id", None, "Where in the body the UUID is. Left out: the field `message_id`, else \
           `/message_id` in the body.").such_as("\"/uuid\""),
    shown("sources.redis_stream", "occurred_at", None, "Where in the body the time is.").such_as("\"/created_at\""),
    shown("sources.redis_stream", "payload", Is("\"\""), "Where in the body the payload is; `\"\"` is the whole body."),
];

const fn shown(
    place: &'static str,
    name: &'static str,
    default: Default,
    words: &'static str,
) -> Key {
    Key { place, name, default, words, example: Option::None, is_secret: false }
}

const fn secret(
    place: &'static str,
    name: &'static str,
    default: Default,
    words: &'static str,
) -> Key {
    Key { is_secret: true, ..shown(place, name, default, words) }
}

impl Key {
    /// With a value, as it would stand in the file.
    const fn such_as(self, example: &'static str) -> Self {
        Self { example: Some(example), ..self }
    }
}
