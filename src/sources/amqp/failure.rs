//! What the broker and the client library say, in words that tell what to do.

use std::error::Error as _;
use std::io;

use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::{Error, ErrorKind};
use rustls::AlertDescription;

use super::Broker;
use crate::event::excerpt::excerpt;
use crate::source::queue::QueueError;
use crate::sources::tls::{certificate_fix, certificate_is_refused};

/// Longest part of a broker's own words that is repeated, in characters.
const SHOWN_LENGTH_MAX: usize = 300;

/// Which queue of which broker an error is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Site<'a> {
    pub(super) broker: &'a Broker,
    pub(super) queue: &'a str,
}

impl Site<'_> {
    /// The queue, as people look for it.
    pub(super) fn name(self) -> String {
        let (queue, vhost) = (self.queue, self.broker.vhost());
        format!("queue \"{queue}\" in virtual host \"{vhost}\" at {}", self.broker.place())
    }

    /// The broker took longer than its limit.
    pub(super) fn silent(self, action: &str) -> QueueError {
        let (place, timeout) = (self.broker.place(), self.broker.timeout());
        QueueError::unavailable(format!(
            "the broker at {place} did not answer within {timeout:?}, asked to {action}"
        ))
        .with_fix("see whether the broker works; ?connection_timeout=30000 in the URL waits 30 s")
    }

    /// The name could not be resolved, or nobody answers there.
    pub(super) fn unreachable(self, cause: &io::Error) -> QueueError {
        let reason = format!("cannot connect to {}: {cause}", self.broker.place());
        QueueError::unavailable(reason).with_fix(match cause.kind() {
            io::ErrorKind::ConnectionRefused => {
                "see whether the broker runs there, and listens on this address and port (5672; 5671 with TLS)"
            }
            _ => "see whether the host's name is right, and whether a firewall is in between",
        })
    }

    /// TLS could not be agreed on.
    pub(super) fn tls(self, cause: &io::Error) -> QueueError {
        let place = self.broker.place();
        let inner = cause.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let Some(inner) = inner else {
            let reason =
                format!("the connection to {place} broke while TLS was agreed on: {cause}");
            return QueueError::unavailable(reason)
                .with_fix("a port without TLS wants amqp://; 5671 is the usual one with TLS");
        };
        let reason = format!("TLS with {place} failed: {inner}");
        match inner {
            rustls::Error::InvalidMessage(_) => QueueError::rejected(format!(
                "{place} does not speak TLS"
            ))
            .with_fix(
                "write amqp:// if that is the port without TLS (5672), or name the one with (5671)",
            ),
            rustls::Error::InvalidCertificate(problem) => {
                QueueError::rejected(reason).with_fix(certificate_fix(problem))
            }
            rustls::Error::AlertReceived(alert) if certificate_is_refused(*alert) => {
                QueueError::rejected(format!("{place} refused our certificate ({alert:?})"))
                    .with_fix("check client_cert_file and client_key_file against the broker's ssl_options")
            }
            _ => QueueError::unavailable(reason),
        }
    }

    /// The connection could not be opened, although something answers there.
    pub(super) fn opening(self, error: &Error) -> QueueError {
        if let Some(known) = known(error) {
            return known;
        }
        let place = self.broker.place();
        let strange = "is that the port of AMQP 0-9-1? it is 5672, and 5671 with TLS (amqps://); 5552 is that of streams, \
                       15672 that of the web page";
        match error.kind() {
            ErrorKind::ProtocolError(refusal) => self.refused("open the connection", refusal),
            ErrorKind::ParsingError(_) | ErrorKind::InvalidProtocolVersion(_) => {
                QueueError::rejected(format!("{place} does not answer in AMQP 0-9-1"))
                    .with_fix(strange)
            }
            ErrorKind::IOError(cause) => match alert(cause) {
                Some(alert) if certificate_is_refused(alert) => self.tls(cause),
                _ => QueueError::unavailable(format!(
                    "{place} closed the connection before it was open: {cause}"
                ))
                .with_fix(strange),
            },
            _ => QueueError::unavailable(format!("cannot open a connection to {place}: {error}")),
        }
    }

    /// A call failed, or the session ended by itself.
    pub(super) fn failed(self, action: &str, error: &Error) -> QueueError {
        let place = self.broker.place();
        match error.kind() {
            ErrorKind::ProtocolError(refusal) => self.refused(action, refusal),
            ErrorKind::MissingHeartbeatError => QueueError::unavailable(format!(
                "the broker at {place} fell silent: no heartbeat came from it for too long"
            ))
            .with_fix("see whether the broker works; a network that stalls for long needs a longer ?heartbeat="),
            ErrorKind::ParsingError(_) => QueueError::rejected(format!(
                "{} delivered a message that cannot be read: a text of its properties (type, message_id, app_id …) or the \
                 name of a header is not UTF-8",
                self.name()
            ))
            .with_fix(
                "messages now come one by one, so that those before it leave the queue; when this is said again, it is the \
                 first one: take it out (on the broker's web page: Queues, its name, Get messages, Automatic ack, 1; an \
                 error that answers it has taken it out all the same), and have its publisher write UTF-8",
            ),
            ErrorKind::IOError(cause) => {
                QueueError::unavailable(format!("the connection to {place} broke: {cause}"))
            }
            _ => {
                let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                QueueError::unavailable(format!("cannot {action} at {place}: {cause}"))
            }
        }
    }

    /// What the broker says, by its codes. Its words tell apart what has one code.
    fn refused(self, action: &str, refusal: &AMQPError) -> QueueError {
        let said = excerpt(refusal.get_message().as_str(), SHOWN_LENGTH_MAX);
        let place = self.broker.place();
        let reason = format!("the broker at {place} refused to {action}: {said}");
        let rejected = |fix: &str| QueueError::rejected(reason.clone()).with_fix(fix);
        match refusal.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => self.no_access(&said, reason),
            AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => self.not_found(&said, reason),
            AMQPErrorKind::Soft(AMQPSoftError::RESOURCELOCKED) => rejected(
                "the queue is exclusive: it belongs to one connection and goes with it; use a durable queue",
            ),
            AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => {
                self.precondition(&said, reason)
            }
            AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => self.not_allowed(&said, reason),
            AMQPErrorKind::Hard(AMQPHardError::NOTIMPLEMENTED) => rejected(
                "the queue is of a type that cannot be read this way; use a classic or a quorum queue",
            ),
            AMQPErrorKind::Hard(AMQPHardError::RESOURCEERROR) => {
                QueueError::unavailable(reason).with_fix("the broker is at a limit; see its log")
            }
            AMQPErrorKind::Hard(AMQPHardError::CONNECTIONFORCED) => QueueError::unavailable(
                format!("the broker at {place} closed the connection: {said}"),
            ),
            AMQPErrorKind::Soft(_) | AMQPErrorKind::Hard(_) => QueueError::unavailable(reason),
        }
    }

    fn no_access(self, said: &str, reason: String) -> QueueError {
        let (user, vhost, queue) = (self.broker.user(), self.broker.vhost(), self.queue);
        if said.contains("in exclusive use") {
            return QueueError::rejected(format!(
                "{} has an exclusive consumer, which no other can join",
                self.name()
            ))
            .with_fix("end that consumer, or have it consume without `exclusive`; rabbitmqctl list_consumers names it");
        }
        if said.contains("Login was refused") || said.contains("login refused") {
            let place = self.broker.place();
            let refused = QueueError::rejected(format!(
                "the broker at {place} refused the user \"{user}\" or the password"
            ));
            return match user {
                "guest" => refused.with_fix(
                    "the user guest may only connect from the broker's own machine; add a user of your own: rabbitmqctl \
                     add_user, set_permissions",
                ),
                _ => refused.with_fix(format!(
                    "check both in the URL (percent-encode special characters): rabbitmqctl authenticate_user {user}"
                )),
            };
        }
        QueueError::rejected(reason).with_fix(format!(
            "give the user the right to read the queue (and, with declare = true, to configure it): rabbitmqctl \
             set_permissions -p {vhost} {user} \"\" \"\" \"^{queue}$\""
        ))
    }

    fn not_found(self, said: &str, reason: String) -> QueueError {
        if said.contains("no queue") {
            return QueueError::rejected(format!("there is no {}", self.name())).with_fix(
                "create it, correct `queue` or the virtual host at the URL's end, or let it be created by declare = true",
            );
        }
        if said.contains("no exchange") {
            return QueueError::rejected(reason).with_fix(
                "create the exchange, or correct `bindings`; exchanges are not declared here",
            );
        }
        // The node that holds the queue is down: it exists.
        QueueError::unavailable(reason).with_fix("see whether all nodes of the broker run")
    }

    fn precondition(self, said: &str, reason: String) -> QueueError {
        if said.contains("delivery acknowledgement") {
            return QueueError::unavailable(format!(
                "the broker took its messages back: they were not acknowledged within its consumer_timeout ({said})"
            ))
            .with_fix("see why nothing can be stored; a longer consumer_timeout in rabbitmq.conf waits longer");
        }
        if said.contains("rabbit_stream_queue") || said.contains("current is 'stream'") {
            return self.is_a_stream();
        }
        if said.contains("inequivalent arg") {
            let name = self.name();
            return QueueError::rejected(format!("{name} exists, and is not as declared: {said}"))
                .with_fix("set `queue_type` as the queue is, or take `declare` out: then it is used as it is");
        }
        QueueError::rejected(reason)
    }

    fn not_allowed(self, said: &str, reason: String) -> QueueError {
        let (user, vhost) = (self.broker.user(), self.broker.vhost());
        if said.contains("not found") {
            return QueueError::rejected(format!(
                "the broker at {} has no virtual host \"{vhost}\"",
                self.broker.place()
            ))
            .with_fix(
                "it is what follows the port in the URL: /%2f for the usual one, which is called /",
            );
        }
        if said.contains("access to vhost") {
            return QueueError::rejected(reason).with_fix(format!(
                "let the user into the virtual host: rabbitmqctl set_permissions -p {vhost} {user} \"\" \"\" \".*\""
            ));
        }
        if said.contains("limit") {
            return QueueError::unavailable(reason)
                .with_fix("the broker's limit of connections is reached");
        }
        QueueError::rejected(reason)
    }

    /// A stream under the name of a queue.
    pub(super) fn is_a_stream(self) -> QueueError {
        QueueError::rejected(format!("{} is a stream", self.name()))
            .with_fix("a stream is read by its offsets: use type = \"rabbitmq_stream\" and `stream` instead of `queue`")
    }

    /// The broker ended the consumer.
    pub(super) fn cancelled(self) -> QueueError {
        QueueError::rejected(format!("{} was deleted or moved under its consumer", self.name()))
            .with_fix("create it again; it is consumed again as soon as it is there")
    }
}

/// An error of ours that passed through the library.
fn known(error: &Error) -> Option<QueueError> {
    let ErrorKind::IOError(cause) = error.kind() else { return None };
    cause.get_ref()?.downcast_ref::<QueueError>().cloned()
}

fn alert(cause: &io::Error) -> Option<AlertDescription> {
    match cause.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}
