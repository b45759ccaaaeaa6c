//! What Redis refuses, and what to do about it.

use std::io;

use redis::{ErrorKind, RedisError};

use super::Place;
use crate::source::queue::{QueueError, QueueFailure};

use QueueFailure::{Rejected, Unavailable};

/// What is done first, in messages.
pub(super) const CONNECT: &str = "connect";
/// The commands that a consumer sends.
const COMMANDS: &str =
    "+xreadgroup +xack +xclaim +xpending +xrange +xinfo +xgroup +type +multi +exec +eval +select";

/// What a code of Redis means: class, what happened, what to do.
const CODES: &[(&str, QueueFailure, &str, &str)] = &[
    ("NOAUTH", Rejected, "wants a password", "write it into url: redis://user:password@host:port"),
    (
        "WRONGPASS",
        Rejected,
        "refuses the user or the password",
        "correct them in url: redis://user:password@host:port",
    ),
    ("WRONGTYPE", Rejected, "", ""),
    (
        "NOGROUP",
        Rejected,
        "no longer has the stream or its group",
        "it is made anew and read from read_from; entries that went with the stream and were not read are lost: find out who deleted it",
    ),
    (
        "UNBLOCKED",
        Rejected,
        "no longer has the stream or its group",
        "it is made anew and read from read_from; entries that went with the stream and were not read are lost: find out who deleted it",
    ),
    (
        "MOVED",
        Rejected,
        "is a node of a cluster that does not hold the stream",
        "name the node that holds it in url; clusters are not followed",
    ),
    (
        "ASK",
        Rejected,
        "is a node of a cluster that does not hold the stream",
        "name the node that holds it in url; clusters are not followed",
    ),
    (
        "CLUSTERDOWN",
        Unavailable,
        "is a node of a cluster that is down",
        "wait, or repair the cluster",
    ),
    (
        "READONLY",
        Unavailable,
        "is a replica, which cannot be written to",
        "name the primary in url: consumer groups write",
    ),
    ("MASTERDOWN", Unavailable, "is a replica whose primary is away", "name the primary in url"),
    ("LOADING", Unavailable, "is still loading its data", "wait"),
    ("TRYAGAIN", Unavailable, "is moving the stream", "wait"),
    ("BUSY", Unavailable, "is busy with somebody's script", "wait, or end the script: SCRIPT KILL"),
    (
        "MISCONF",
        Unavailable,
        "cannot save to its disk and refuses writes",
        "make room on its disk, and see its log",
    ),
    (
        "OOM",
        Unavailable,
        "is out of memory and refuses writes",
        "raise maxmemory, or trim what was read",
    ),
];

impl Place {
    /// An error of the library, said in our words.
    pub(super) fn translate(&self, error: &RedisError, doing: &str) -> QueueError {
        let (code, detail) = code_and_detail(error);
        let address = &self.address;
        let said = [code.as_str(), detail.as_str()].join(" ");
        let said = said.trim();
        if let Some((_, class, what, fix)) = CODES.iter().find(|(known, ..)| *known == code) {
            let stream = &self.stream;
            let reason = match code.as_str() {
                "WRONGTYPE" => return self.wrong_type(),
                "NOGROUP" | "UNBLOCKED" => {
                    format!(
                        "the Redis at {address} no longer has the stream {stream:?} or its group {:?}",
                        self.group
                    )
                }
                _ => format!("the Redis at {address} {what}: {said}"),
            };
            return QueueError { class: *class, reason, fix: Some((*fix).to_owned()) };
        }
        match code.as_str() {
            "NOPERM" => {
                let reason =
                    format!("the Redis at {address} does not let its user {doing}: {detail}");
                let fix = format!(
                    "grant the consumer group its commands and key: ACL SETUSER … {COMMANDS} ~{}",
                    self.stream
                );
                return QueueError::rejected(reason).with_fix(fix);
            }
            "ERR" if is_too_old(&detail) => return self.too_old(&detail),
            "ERR" if detail.contains("no such key") => {
                let reason =
                    format!("the Redis at {address} no longer has the stream {:?}", self.stream);
                return QueueError::rejected(reason).with_fix(CODES[3].3);
            }
            "ERR" if detail.contains("DB index") => {
                let reason = format!("the Redis at {address} has no database of that number");
                return QueueError::rejected(reason)
                    .with_fix("correct the number at the end of url");
            }
            "" => {}
            _ => {
                return QueueError::rejected(format!(
                    "the Redis at {address} failed to {doing}: {said}"
                ));
            }
        }
        self.translate_io(error, doing)
    }

    /// The key is not a stream.
    pub(super) fn wrong_type(&self) -> QueueError {
        let reason =
            format!("the key {:?} of the Redis at {} is no stream", self.stream, self.address);
        QueueError::rejected(reason)
            .with_fix("correct stream, or the number of the database in url")
    }

    /// The server lacks what Redis 7 has.
    pub(super) fn too_old(&self, said: &str) -> QueueError {
        let reason = format!("the server at {} is older than Redis 7: {said}", self.address);
        QueueError::rejected(reason).with_fix("use Redis 7 or later, or Valkey")
    }

    /// It did not answer in time.
    pub(super) fn silent(&self, doing: &str) -> QueueError {
        let reason = format!("the Redis at {} did not answer in time to {doing}", self.address);
        // Redis takes the beginning of TLS for a line whose end is still to come.
        let fix = if self.is_tls && doing == CONNECT {
            "see whether the port speaks TLS, else write redis:// into url; and whether Redis is stopped or cut off"
        } else {
            "see whether it is stopped, overloaded or cut off"
        };
        QueueError::unavailable(reason).with_fix(fix)
    }

    fn translate_io(&self, error: &RedisError, doing: &str) -> QueueError {
        let address = &self.address;
        let text = error.to_string();
        let has = |part: &str| text.contains(part);
        let tls = |why: &str, fix: &str| {
            QueueError::rejected(format!("the Redis at {address} cannot be trusted: {why}"))
                .with_fix(fix)
        };
        if has("UnknownIssuer") || has("CaUsedAsEndEntity") {
            return tls(
                "its certificate is signed by nobody that is trusted here",
                "name the certificate of its authority as ca_file",
            );
        }
        if has("not valid for name") || has("NotValidForName") {
            return tls(
                "its certificate is for another name",
                "write the name of its certificate into url",
            );
        }
        if has("certificate expired") || has("Expired") {
            return tls("its certificate has expired", "renew the certificate of the server");
        }
        if has("invalid peer certificate") {
            return tls(&text, "correct the certificate of the server, or ca_file");
        }
        if has("InvalidContentType") || has("corrupt message") {
            return QueueError::rejected(format!("the port at {address} speaks no TLS"))
                .with_fix("write redis:// instead of rediss:// into url, or name the TLS port");
        }
        if error.kind() == ErrorKind::AuthenticationFailed {
            return QueueError::rejected(format!("the Redis at {address} refuses the user or the password"))
                .with_fix("correct them in url: redis://user:password@host:port; a server without a password wants none");
        }
        let fix = match io_kind(error) {
            Some(io::ErrorKind::ConnectionRefused) => {
                "nothing listens there: see whether Redis runs, and the port in url"
            }
            Some(io::ErrorKind::TimedOut) => {
                "see whether the host is right, and a firewall between"
            }
            _ if error.kind() == ErrorKind::Parse => {
                return QueueError::rejected(format!(
                    "what listens at {address} does not speak like Redis"
                ))
                .with_fix("correct the port in url; a TLS port is rediss://");
            }
            _ if has("lookup") || has("resolve") => "see whether the host in url is right",
            _ => "see the log of the server; a port that speaks TLS wants rediss:// in url",
        };
        let reason = format!("the Redis at {address} cannot be reached to {doing}: {text}");
        QueueError::unavailable(reason).with_fix(fix)
    }
}

fn is_too_old(detail: &str) -> bool {
    let detail = detail.to_ascii_lowercase();
    ["unknown command", "unknown subcommand", "syntax error"]
        .iter()
        .any(|known| detail.contains(known))
}

/// The code that Redis answered with, and what follows it; empty where it is no answer. Those of a transaction hide theirs
/// in a list.
fn code_and_detail(error: &RedisError) -> (String, String) {
    if let Some(errors) = error.clone().into_server_errors()
        && let Some((_, told)) = errors.iter().max_by_key(|(_, error)| error.code() == "NOGROUP")
    {
        return (told.code().to_owned(), told.details().unwrap_or_default().to_owned());
    }
    let code = error.code().unwrap_or_default().to_owned();
    (code, error.detail().unwrap_or_default().to_owned())
}

fn io_kind(error: &RedisError) -> Option<io::ErrorKind> {
    if error.is_connection_refusal() {
        return Some(io::ErrorKind::ConnectionRefused);
    }
    error.is_timeout().then_some(io::ErrorKind::TimedOut)
}
