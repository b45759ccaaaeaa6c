//! What `eventloader check` says of a topic, without joining the group.

use std::collections::HashMap;
use std::sync::Arc;

use super::begin::{Begin, Found};
use super::client::{self, Shared};
use super::{KafkaOptions, ReadFrom};
use crate::source::queue::{QueueError, QueueInspection};

/// The name of the client that looks.
const NAME: &str = "eventloader-check";

pub(super) fn inspect(options: &KafkaOptions) -> Result<QueueInspection, QueueError> {
    let shared = Arc::new(Shared::new(options, HashMap::new()));
    let client = client::open(options, NAME, &shared)?;
    let partitions = client::partitions(&client)?;
    Ok(describe(options, &client::find(&client, &partitions)?))
}

fn describe(options: &KafkaOptions, found: &[(i32, Found)]) -> QueueInspection {
    let KafkaOptions { topic, group, .. } = options;
    let span = |found: &Found| Some((found.low?, found.high?));
    let waiting = |found: &Found| {
        let (low, high) = span(found)?;
        let from = found.begin(options.read_from).offset().unwrap_or(low);
        Some(high - from.clamp(low, high))
    };
    let held: i64 =
        found.iter().filter_map(|(_, found)| span(found)).map(|(low, high)| high - low).sum();
    let lag: i64 = found.iter().filter_map(|(_, found)| waiting(found)).sum();
    let is_new = found.iter().all(|(_, found)| found.committed.is_none());
    let stand = match (is_new, options.read_from) {
        (true, ReadFrom::Beginning) => {
            "has no offsets: it begins with the first message".to_owned()
        }
        (true, ReadFrom::GroupCreated) => {
            "has no offsets: it begins behind what is stored, or else with what comes next"
                .to_owned()
        }
        (false, _) => format!("is {lag} offsets behind"),
    };
    let count = found.len();
    let what =
        format!("topic \"{topic}\": {count} partitions, {held} offsets; group \"{group}\" {stand}");
    let mut warnings = Vec::new();
    for (number, found) in found {
        match found.begin(options.read_from) {
            Begin::Lost { wanted, low } => warnings.push(format!(
                "{topic}/{number}: the offsets {wanted} to {} were removed before they were read; raise retention.ms of the \
                 topic, or let the loader run more often",
                low - 1
            )),
            Begin::Anew { wanted, high, .. } => warnings.push(format!(
                "{topic}/{number}: the group has read up to {wanted}, but the partition ends at {high}: the topic was made \
                 again; give the topic another name, or its events conflict with those stored before"
            )),
            Begin::First | Begin::Committed(_) => {}
        }
        if span(found).is_none() {
            warnings.push(format!(
                "{topic}/{number}: its leader does not answer; bring the broker back, or check that the address it is \
                 advertised under can be reached from here"
            ));
        }
    }
    QueueInspection { what, warnings }
}

#[cfg(test)]
mod tests {
    use super::super::Security;
    use super::*;

    #[test]
    fn the_lag_counts_from_where_the_group_begins() {
        let options = KafkaOptions {
            brokers: vec!["kafka:9092".to_owned()],
            topic: "t".to_owned(),
            group: "g".to_owned(),
            read_from: ReadFrom::Beginning,
            security: Security::default(),
        };
        let found = |committed, low, high| Found {
            committed,
            low: Some(low),
            high: Some(high),
            ..Found::default()
        };
        let two = [(0, found(Some(5), 0, 10)), (1, found(Some(2), 4, 10))];
        let seen = describe(&options, &two);
        assert_eq!(
            seen.what,
            "topic \"t\": 2 partitions, 16 offsets; group \"g\" is 11 offsets behind"
        );
        assert_eq!(seen.warnings.len(), 1);
        assert!(seen.warnings[0].starts_with("t/1: the offsets 2 to 3 were removed"), "{seen:?}");
        let away = [(0, Found { committed: Some(1), ..Found::default() })];
        assert!(describe(&options, &away).warnings[0].contains("leader does not answer"));
    }
}
