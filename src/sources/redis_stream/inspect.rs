//! A look at server, stream and group that changes nothing.

use std::sync::Arc;

use redis::cmd;

use super::link::Link;
use super::reply::{self, GroupState, StreamState};
use super::{Place, ReadFrom, RedisStreamOptions, group};
use crate::source::queue::{QueueError, QueueInspection};

/// What `INFO` tells that may surprise somebody.
#[derive(Default)]
struct Server {
    name: String,
    version: String,
    eviction: String,
    maxmemory: u64,
    is_append_only: Option<bool>,
    is_replica: bool,
    is_cluster: bool,
}

pub(super) async fn inspect(
    options: &RedisStreamOptions,
    place: &Arc<Place>,
) -> Result<QueueInspection, QueueError> {
    let link = Link::open(options, place).await?;
    let found = group::stream_state(&link, place).await?;
    // Somebody who may not ask for it can still read the stream.
    let server = link.call(&cmd("INFO"), "look at the server").await.ok();
    let server = server.as_ref().and_then(reply::text).map(parse_info);
    if let Some(server) = &server
        && server.name == "Redis"
        && server.major().is_some_and(|major| major < 7)
    {
        return Err(place.too_old(&format!("it is {}", server.version)));
    }
    if server.as_ref().is_some_and(|server| server.is_replica) {
        let reason =
            format!("the Redis at {} is a replica, which cannot be written to", place.address);
        return Err(QueueError::unavailable(reason)
            .with_fix("name the primary in url: consumer groups write"));
    }
    let mut warnings = server.as_ref().map(warnings_of).unwrap_or_default();
    let what = match &found {
        None => {
            warnings.push(format!(
                "there is no stream {:?} yet; it is made, empty, when `run` connects: correct stream if that is not meant",
                place.stream
            ));
            format!("no stream {:?} yet", place.stream)
        }
        Some((stream, group)) => describe(options, stream, group.as_ref(), &mut warnings),
    };
    let server = match &server {
        Some(server) => format!("{} {}", server.name, server.version),
        None => "a Redis that does not tell its version (+info)".to_owned(),
    };
    Ok(QueueInspection { what: format!("{server}: {what}"), warnings })
}

fn describe(
    options: &RedisStreamOptions,
    stream: &StreamState,
    group: Option<&GroupState>,
    warnings: &mut Vec<String>,
) -> String {
    let (name, length) = (&options.stream, stream.length);
    let Some(group) = group else {
        if options.read_from == ReadFrom::GroupCreated && length > 0 {
            warnings.push(format!(
                "the {length} entries that are there will not be read: read_from = \"group_created\"; leave it out to read them"
            ));
        }
        let name_of_group = &options.group;
        return format!(
            "stream {name:?} with {length} entries; the group {name_of_group:?} will be made"
        );
    };
    if let Some(loss) = super::gap::Watch::default().look(stream, group) {
        warnings.push(format!(
            "{}: trim later, by MINID, or keep more than the longest outage adds",
            loss.into_gap().reason
        ));
    }
    let lag = group.lag.map_or_else(|| "unknown".to_owned(), |lag| lag.to_string());
    format!(
        "stream {name:?} with {length} entries; group {:?} with {} consumers, {} pending, {lag} to be read",
        options.group, group.consumers, group.pending
    )
}

fn warnings_of(server: &Server) -> Vec<String> {
    let mut warnings = Vec::new();
    if server.maxmemory > 0 && server.eviction.starts_with("allkeys-") {
        warnings.push(format!(
            "maxmemory-policy is {}: Redis may drop the whole stream when memory is short; set it to noeviction or volatile-*",
            server.eviction
        ));
    }
    if server.is_append_only == Some(false) {
        warnings.push(
            "appendonly is off: what was added since the last snapshot is lost when Redis crashes; set appendonly yes"
                .to_owned(),
        );
    }
    if server.is_cluster {
        warnings.push(
            "it is a node of a cluster: redirections are not followed, so url has to name the node that holds the stream"
                .to_owned(),
        );
    }
    warnings
}

impl Server {
    fn major(&self) -> Option<u32> {
        self.version.split('.').next()?.parse().ok()
    }
}

fn parse_info(text: &str) -> Server {
    let mut server = Server { name: "Redis".to_owned(), ..Server::default() };
    for (key, value) in text.lines().filter_map(|line| line.trim_end().split_once(':')) {
        match key {
            "redis_version" if server.version.is_empty() => value.clone_into(&mut server.version),
            "valkey_version" => {
                "Valkey".clone_into(&mut server.name);
                value.clone_into(&mut server.version);
            }
            "maxmemory_policy" => value.clone_into(&mut server.eviction),
            "maxmemory" => server.maxmemory = value.parse().unwrap_or(0),
            "aof_enabled" => server.is_append_only = Some(value == "1"),
            "role" => server.is_replica = value == "slave",
            "cluster_enabled" => server.is_cluster = value == "1",
            _ => {}
        }
    }
    server
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_info_tells_becomes_a_name_and_warnings() {
        let redis = "# Server\r\nredis_version:7.0.15\r\nmaxmemory:100\r\nmaxmemory_policy:allkeys-lru\r\naof_enabled:0\r\n";
        let server = parse_info(redis);
        assert_eq!((server.name.as_str(), server.version.as_str()), ("Redis", "7.0.15"));
        let warnings = warnings_of(&server);
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].contains("allkeys-lru") && warnings[1].contains("appendonly"));
        let valkey = parse_info(
            "redis_version:7.2.4\r\nvalkey_version:8.1.1\r\naof_enabled:1\r\nmaxmemory:0\r\n",
        );
        assert_eq!((valkey.name.as_str(), valkey.version.as_str()), ("Valkey", "8.1.1"));
        assert!(warnings_of(&valkey).is_empty());
    }
}
