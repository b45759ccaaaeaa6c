//! What librdkafka reports, as what happened, where, and what to do.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::source::queue::QueueError;

/// What is asked, for people. Holds no secret.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// `host:port`, separated by commas.
    pub(super) brokers: String,
    pub(super) topic: String,
    pub(super) group: String,
}

/// What follows from an error that comes while messages are awaited.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Consequence {
    /// librdkafka tries again by itself.
    None,
    /// Perhaps the brokers are gone: ask one.
    Ask,
    /// The session is over.
    End,
}

/// The code of an error, where it has one.
pub(super) fn code(error: &KafkaError) -> Option<Code> {
    error.rdkafka_error_code()
}

pub(super) fn consequence(error: &KafkaError) -> Consequence {
    if let KafkaError::PartitionEOF(_) = error {
        return Consequence::None;
    }
    match code(error) {
        Some(Code::AllBrokersDown) => Consequence::Ask,
        Some(code) if is_passing(code) => Consequence::None,
        _ => Consequence::End,
    }
}

/// Whether librdkafka, or the same request a moment later, gets over it.
pub(super) fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::TimedOutQueue
            | Code::NetworkException
            | Code::WaitingForCoordinator
            | Code::InProgress
            | Code::PreviousInProgress
            | Code::Retry
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::BrokerNotAvailable
            | Code::ReplicaNotAvailable
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::RebalanceInProgress
            | Code::UnstableOffsetCommit
            | Code::OffsetNotAvailable
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::KafkaStorageError
            | Code::ThrottlingQuotaExceeded
            | Code::MemberIdRequired
    )
}

/// Whether a commit failed because the partitions have another owner by now.
pub(super) fn is_not_ours(code: Code) -> bool {
    matches!(
        code,
        Code::IllegalGeneration
            | Code::UnknownMemberId
            | Code::FencedMemberEpoch
            | Code::StaleMemberEpoch
            | Code::AssignmentLost
            | Code::NoOffset
            | Code::State
    )
}

impl Places {
    /// The error in words. `trouble`: what librdkafka said last of a connection.
    pub(super) fn explain(&self, error: &KafkaError, trouble: Option<&str>) -> QueueError {
        let Some(code) = code(error) else { return QueueError::unavailable(error.to_string()) };
        self.refusal(code, trouble).unwrap_or_else(|| self.absence(code, trouble))
    }

    /// What somebody has to act on.
    fn refusal(&self, code: Code, trouble: Option<&str>) -> Option<QueueError> {
        let Self { brokers, topic, group } = self;
        let said = trouble.map(|text| format!(": {text}")).unwrap_or_default();
        let (reason, fix) = match code {
            Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownTopicId
            | Code::InvalidTopic | Code::UnknownPartition => (
                format!("the topic \"{topic}\" does not exist at {brokers}"),
                format!("create it (kafka-topics.sh --create --topic {topic} …), or correct `topic`"),
            ),
            Code::TopicAuthorizationFailed => (
                format!("no right to read the topic \"{topic}\" at {brokers}"),
                format!("give the user the rights Read and Describe on the topic \
                         (kafka-acls.sh --add --allow-principal User:NAME --operation Read --topic {topic})"),
            ),
            Code::GroupAuthorizationFailed => (
                format!("no right to be a consumer of the group \"{group}\" at {brokers}"),
                format!("give the user the right Read on the group \
                         (kafka-acls.sh --add --allow-principal User:NAME --operation Read --group {group}), \
                         or set `group` to one that it may use"),
            ),
            Code::ClusterAuthorizationFailed => (
                format!("no right to use the cluster of {brokers}"),
                "give the user the rights that the topic and the group need".to_owned(),
            ),
            Code::Authentication | Code::SaslAuthenticationFailed | Code::IllegalSASLState => (
                format!("{brokers} refused the user{said}"),
                "check `username`, `password` and `mechanism`".to_owned(),
            ),
            Code::UnsupportedSASLMechanism => (
                format!("{brokers} does not know this way of logging in{said}"),
                "set `mechanism` to one of sasl.enabled.mechanisms of the broker".to_owned(),
            ),
            Code::SSL => (
                format!("no TLS connection to {brokers}{said}"),
                "check `tls`, `ca_file` and the certificate of the broker".to_owned(),
            ),
            Code::InconsistentGroupProtocol => (
                format!("the consumers of the group \"{group}\" share its partitions in another way"),
                "set `group` to one of its own, or have its other consumers use the assignment strategy \
                 cooperative-sticky".to_owned(),
            ),
            Code::GroupMaxSizeReached => (
                format!("the group \"{group}\" has as many consumers as {brokers} allows"),
                "stop a consumer, or raise group.max.size of the brokers".to_owned(),
            ),
            Code::InvalidSessionTimeout => (
                format!("{brokers} does not allow consumers a session of 10 s"),
                "let group.min.session.timeout.ms of the brokers be at most 10000".to_owned(),
            ),
            Code::InvalidGroupId => (
                format!("\"{group}\" is no name of a group for {brokers}"),
                "correct `group`".to_owned(),
            ),
            Code::FencedInstanceId => (
                format!("another consumer of the group \"{group}\" has taken the name of this one"),
                "run every instance under a name of its own".to_owned(),
            ),
            Code::UnsupportedVersion | Code::UnsupportedFeature => (
                format!("{brokers} does not speak a version of the protocol that is needed{said}"),
                "use Kafka 0.11 or later, or what is compatible with it".to_owned(),
            ),
            Code::NotImplemented | Code::UnsupportedCompressionType => (
                format!("a message of the topic \"{topic}\" is compressed in a way that this build does not know"),
                "have its producers use gzip, snappy, lz4 or zstd".to_owned(),
            ),
            _ => return None,
        };
        Some(QueueError::rejected(reason).with_fix(fix))
    }

    /// What may pass by itself.
    fn absence(&self, code: Code, trouble: Option<&str>) -> QueueError {
        let Self { brokers, topic, group } = self;
        match code {
            Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation => {
                QueueError::unavailable(format!(
                    "the topic \"{topic}\" no longer has the next offset of a partition; \
                     a new session finds out what is missing"
                ))
            }
            Code::PollExceeded => QueueError::unavailable(format!(
                "this process stood still for so long that the group \"{group}\" went on without it"
            ))
            .with_fix("give the machine more time, or see what stops it"),
            Code::AllBrokersDown
            | Code::BrokerTransportFailure
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::WaitingForCoordinator
            | Code::NetworkException => self.unreachable(trouble),
            code => QueueError::unavailable(format!(
                "{brokers} cannot serve the topic \"{topic}\" now: {code}"
            )),
        }
    }

    fn unreachable(&self, trouble: Option<&str>) -> QueueError {
        let brokers = &self.brokers;
        let Some(trouble) = trouble else {
            return QueueError::unavailable(format!("no answer from {brokers} in time")).with_fix(
                "check that Kafka is running there, and that it can be reached from this machine",
            );
        };
        let error = |what: String| QueueError::unavailable(format!("{what}: {trouble}"));
        if trouble.contains("APIVERSION_QUERY") || trouble.contains("connecting to a SSL listener")
        {
            return error(format!("{brokers} ends the connection"))
                .with_fix("a port that wants TLS or a login does that: name its plaintext listener, or set `tls` or `username`");
        }
        match self.advertised(trouble) {
            Some(host) => error(format!("{brokers} says that it is to be reached as {host}, which fails"))
                .with_fix("set advertised.listeners of the brokers to addresses that can be reached from this machine, \
                           or make the name known here"),
            None => error(format!("{brokers} cannot be reached"))
                .with_fix("check `brokers`, and that Kafka is running there"),
        }
    }

    /// The `host:port` that a complaint begins with, if it is none of those that are configured.
    fn advertised<'t>(&self, trouble: &'t str) -> Option<&'t str> {
        let (host, rest) = trouble.split_once('/')?;
        let is_address = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let is_known = self.brokers.split(", ").any(|broker| broker.eq_ignore_ascii_case(host));
        (is_address && !is_known && !rest.starts_with("bootstrap")).then_some(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::queue::QueueFailure;

    fn explained(code: Code, trouble: Option<&str>) -> QueueError {
        let places = Places {
            brokers: "kafka:9092".to_owned(),
            topic: "clicks".to_owned(),
            group: "eventloader".to_owned(),
        };
        places.explain(&KafkaError::MetadataFetch(code), trouble)
    }

    #[test]
    fn what_nobody_repairs_by_waiting_says_what_to_do() {
        let cases = [
            (
                Code::UnknownTopicOrPartition,
                "\"clicks\" does not exist at kafka:9092",
                "kafka-topics.sh",
            ),
            (
                Code::TopicAuthorizationFailed,
                "no right to read the topic \"clicks\"",
                "--topic clicks",
            ),
            (Code::GroupAuthorizationFailed, "group \"eventloader\"", "--group eventloader"),
            (Code::SaslAuthenticationFailed, "kafka:9092 refused the user", "`password`"),
            (Code::InconsistentGroupProtocol, "in another way", "cooperative-sticky"),
        ];
        for (code, reason, fix) in cases {
            let error = explained(code, None);
            assert_eq!(error.class, QueueFailure::Rejected, "{code}");
            assert!(error.reason.contains(reason), "{error}");
            assert!(error.fix.as_ref().is_some_and(|text| text.contains(fix)), "{:?}", error.fix);
        }
    }

    #[test]
    fn an_advertised_address_is_told_from_a_configured_one() {
        let timeout = Code::OperationTimedOut;
        let error = explained(
            timeout,
            Some("broker-7.internal:9092/7: Failed to resolve 'broker-7.internal:9092'"),
        );
        assert_eq!(error.class, QueueFailure::Unavailable);
        assert!(error.reason.contains("to be reached as broker-7.internal:9092"), "{error}");
        assert!(error.fix.unwrap().contains("advertised.listeners"));
        let error =
            explained(timeout, Some("kafka:9092/bootstrap: Connect to ipv4#127.0.0.1:9092 failed"));
        assert!(error.reason.starts_with("kafka:9092 cannot be reached"), "{error}");
        let error = explained(
            timeout,
            Some("kafka:9092/1: Disconnected (after 1ms in state APIVERSION_QUERY)"),
        );
        assert!(error.fix.unwrap().contains("TLS"));
    }

    #[test]
    fn only_what_does_not_pass_ends_a_session() {
        let consequence = |code| consequence(&KafkaError::MessageConsumption(code));
        assert_eq!(consequence(Code::BrokerTransportFailure), Consequence::None);
        assert_eq!(consequence(Code::AllBrokersDown), Consequence::Ask);
        assert_eq!(consequence(Code::AutoOffsetReset), Consequence::End);
        assert_eq!(consequence(Code::TopicAuthorizationFailed), Consequence::End);
    }
}
