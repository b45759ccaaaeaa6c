//! What goes wrong with a broker, in words that tell what to do.

use std::io;

use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::{Error, ErrorKind};

use super::StreamOptions;
use super::address::Protocol;
use super::message::OFFSET;
use super::wire::WireError;
use crate::event::excerpt::excerpt;
use crate::source::queue::{QueueError, QueueFailure};
use crate::source::{FailureClass, SourceError};
use crate::sources::tls::certificate_fix;

/// Longest part of a broker's own words that is repeated, in characters.
const SHOWN_LENGTH_MAX: usize = 300;

/// What a broker is asked for while it is read from.
pub(super) const DELIVER: &str = "deliver";

/// Reading a stream changes nothing at the broker, so whatever fails may be asked again.
pub(super) fn source_error(error: QueueError) -> SourceError {
    let class = match error.class {
        QueueFailure::Unavailable => FailureClass::NotSent,
        QueueFailure::Rejected => FailureClass::Rejected,
    };
    let QueueError { reason, fix, .. } = error;
    SourceError::new(class, fix.map_or_else(|| reason.clone(), |fix| format!("{reason}; {fix}")))
}

impl StreamOptions {
    /// The stream, as people look for it.
    fn name(&self) -> String {
        let (stream, vhost) = (&self.stream, &self.address.vhost);
        format!("stream \"{stream}\" in virtual host \"{vhost}\" at {}", self.address.place())
    }

    pub(super) fn silent(&self, action: &str) -> QueueError {
        let (place, timeout) = (self.address.place(), self.timeout);
        QueueError::unavailable(format!(
            "the broker at {place} did not answer within {timeout:?}, asked to {action}"
        ))
        .with_fix("see whether the broker works; a longer `timeout` waits longer")
    }

    pub(super) fn fell_silent(&self) -> QueueError {
        let (place, timeout) = (self.address.place(), self.timeout);
        QueueError::unavailable(format!(
            "the broker at {place} fell silent: not even a heartbeat came within {timeout:?}"
        ))
        .with_fix("see whether the broker works; a longer `timeout` waits longer")
    }

    pub(super) fn unreachable(&self, cause: &io::Error) -> QueueError {
        let reason = format!("cannot connect to {}: {cause}", self.address.place());
        QueueError::unavailable(reason).with_fix(match (cause.kind(), self.address.protocol) {
            (io::ErrorKind::ConnectionRefused, Protocol::Stream) => {
                "see whether the broker runs there, its stream plugin is on (rabbitmq-plugins enable rabbitmq_stream) and \
                 listens on this port (5552; 5551 with TLS); an amqp:// URL reads streams without the plugin"
            }
            (io::ErrorKind::ConnectionRefused, Protocol::Amqp) => {
                "see whether the broker runs there, and listens on this address and port (5672; 5671 with TLS)"
            }
            _ => "see whether the host's name is right, and whether a firewall is in between",
        })
    }

    /// The node that has the stream is another one, under a name that leads nowhere from here.
    pub(super) fn advertised_unreachable(&self, host: &str, port: u32, why: &str) -> QueueError {
        QueueError::unavailable(format!(
            "the broker at {} says that {} is at {host}:{port}, and nothing can be reached there: {why}",
            self.address.place(),
            self.name()
        ))
        .with_fix(format!(
            "make \"{host}\" known here, or set stream.advertised_host and stream.advertised_port in rabbitmq.conf to what \
             is; an amqp:// URL needs neither"
        ))
    }

    pub(super) fn tls(&self, cause: &io::Error) -> QueueError {
        let place = self.address.place();
        let inner = cause.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let reason = format!("TLS with {place} failed: {cause}");
        let Some(inner) = inner else { return QueueError::unavailable(reason) };
        let rejected = QueueError::rejected(reason);
        match inner {
            rustls::Error::InvalidMessage(_) => {
                QueueError::rejected(format!("{place} does not speak TLS"))
                    .with_fix("name the port that does, or take TLS out of the URL's scheme")
            }
            rustls::Error::InvalidCertificate(problem) => {
                rejected.with_fix(certificate_fix(problem))
            }
            _ => QueueError::unavailable(format!("TLS with {place} failed: {inner}")),
        }
    }

    /// The stream protocol ended, or never began.
    pub(super) fn broken(&self, error: &WireError, is_open: bool) -> QueueError {
        let place = self.address.place();
        match error {
            WireError::NotTheProtocol => {
                QueueError::rejected(format!("{place} does not answer in the stream protocol"))
                    .with_fix("is that the stream port (5552; 5551 with TLS)? 5672 is AMQP's and wants an amqp:// URL")
            }
            WireError::Broken(cause) if is_open => {
                QueueError::unavailable(format!("the connection to {place} broke: {cause}"))
            }
            WireError::Broken(cause) => QueueError::unavailable(format!(
                "{place} closed the connection before it was open: {cause}"
            ))
            .with_fix(
                "is that the stream port (5552; 5551 with TLS, and a +tls URL), and the stream plugin on \
                 (rabbitmq-plugins enable rabbitmq_stream)? an amqp:// URL reads streams without it",
            ),
        }
    }

    /// What a code of the stream protocol means.
    pub(super) fn refused(&self, action: &str, code: u16) -> QueueError {
        let (place, user) = (self.address.place(), &self.address.user);
        match code {
            2 => self.missing(),
            6 => QueueError::unavailable(format!("the {} is not available just now", self.name()))
                .with_fix("see whether all nodes of the broker run"),
            8 => self.wrong_credentials(),
            11 => self.guest_from_afar(),
            12 => self.no_virtual_host(&format!("the broker at {place} refused to open it")),
            16 => self.no_right(&format!("the broker at {place} refused \"{user}\" to {action}")),
            17 => self.not_a_stream(),
            _ => QueueError::unavailable(format!(
                "the broker at {place} refused to {action} (code {code} of the stream protocol)"
            )),
        }
    }

    pub(super) fn closed(&self, said: &str) -> QueueError {
        let said = excerpt(said, SHOWN_LENGTH_MAX);
        let place = self.address.place();
        QueueError::unavailable(format!("the broker at {place} closed the connection: {said}"))
    }

    pub(super) fn missing(&self) -> QueueError {
        QueueError::rejected(format!("there is no {}", self.name())).with_fix(
            "create it (a queue with x-queue-type = stream), or correct `stream` or the virtual host at the URL's end; of a \
             super stream, name one of its partitions",
        )
    }

    pub(super) fn not_a_stream(&self) -> QueueError {
        QueueError::rejected(format!("{} is a queue and no stream", self.name()))
            .with_fix("use type = \"amqp\" and `queue` instead of `stream`")
    }

    /// The stream has nothing as new as what was read already.
    pub(super) fn ends_before(&self, after_id: i64) -> QueueError {
        let name = self.name();
        QueueError::rejected(format!(
            "{name} ends before offset {after_id}, up to which it was read: it was deleted and created anew, or the \
             cursor was set too far"
        ))
        .with_fix(format!(
            "`eventloader sources seek` sets the cursor back: to -1 for a new stream, whose events with offsets that were \
             stored before count as conflicts; or give the new stream a source of its own (it had offset {after_id})"
        ))
    }

    pub(super) fn moved(&self) -> QueueError {
        QueueError::unavailable(format!("{} was deleted or moved to another node", self.name()))
    }

    fn wrong_credentials(&self) -> QueueError {
        let (place, user) = (self.address.place(), &self.address.user);
        if user == "guest" {
            return self.guest_from_afar();
        }
        QueueError::rejected(format!(
            "the broker at {place} refused the user \"{user}\" or the password"
        ))
        .with_fix(format!(
            "check both in the URL (percent-encode special characters): rabbitmqctl authenticate_user {user}"
        ))
    }

    fn guest_from_afar(&self) -> QueueError {
        let (place, user) = (self.address.place(), &self.address.user);
        QueueError::rejected(format!("the broker at {place} refused the user \"{user}\"")).with_fix(
            "the user guest may only connect from the broker's own machine; add a user of your own: rabbitmqctl add_user, \
             set_permissions",
        )
    }

    fn no_virtual_host(&self, what: &str) -> QueueError {
        let (vhost, user) = (&self.address.vhost, &self.address.user);
        QueueError::rejected(format!(
            "there is no virtual host \"{vhost}\" for the user \"{user}\": {what}"
        ))
        .with_fix(format!(
            "it is what follows the port in the URL: /%2f for the usual one, which is called /; rabbitmqctl \
             set_permissions -p {vhost} {user} \"\" \"\" \".*\" lets the user in"
        ))
    }

    fn no_right(&self, what: &str) -> QueueError {
        let (vhost, user, stream) = (&self.address.vhost, &self.address.user, &self.stream);
        QueueError::rejected(what).with_fix(format!(
            "give the user the right to read the stream: rabbitmqctl set_permissions -p {vhost} {user} \"\" \"\" \
             \"^{stream}$\""
        ))
    }

    /// What AMQP 0-9-1 says.
    pub(super) fn amqp(&self, action: &str, error: &Error) -> QueueError {
        let place = self.address.place();
        let refusal = match error.kind() {
            ErrorKind::ProtocolError(refusal) => refusal,
            ErrorKind::IOError(cause) => {
                if let Some(known) = cause.get_ref().and_then(|e| e.downcast_ref::<QueueError>()) {
                    return known.clone();
                }
                return QueueError::unavailable(format!(
                    "the connection to {place} broke, asked to {action}: {cause}"
                ));
            }
            ErrorKind::MissingHeartbeatError => return self.fell_silent(),
            ErrorKind::ParsingError(_) if action == DELIVER => {
                return QueueError::rejected(format!(
                    "{} has a message that cannot be read over AMQP 0-9-1: a text of its properties (type, message_id, \
                     app_id …) or the name of a header is not UTF-8",
                    self.name()
                ))
                .with_fix("read it over the stream protocol: a rabbitmq-stream:// URL, which goes on from the same place");
            }
            ErrorKind::ParsingError(_) | ErrorKind::InvalidProtocolVersion(_) => {
                return QueueError::rejected(format!("{place} does not answer in AMQP 0-9-1"))
                    .with_fix(
                        "is that AMQP's port (5672; 5671 with TLS)? 5552 wants a rabbitmq-stream:// URL",
                    );
            }
            _ => return QueueError::unavailable(format!("cannot {action} at {place}: {error}")),
        };
        let said = excerpt(refusal.get_message().as_str(), SHOWN_LENGTH_MAX);
        let reason = format!("the broker at {place} refused to {action}: {said}");
        match refusal.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) if said.contains("no queue") => {
                self.missing()
            }
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)
                if said.to_lowercase().contains("login") =>
            {
                self.wrong_credentials()
            }
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => self.no_right(&reason),
            AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) if said.contains(OFFSET) => {
                self.not_a_stream()
            }
            AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => self.no_virtual_host(&said),
            _ => QueueError::unavailable(reason),
        }
    }
}
