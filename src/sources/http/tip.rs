//! `tip_lag`: staying behind the newest events of an API whose ids become visible out of order.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::event::Item;

/// Cuts a page before its first event that is younger than `tip_lag`. What is cut off is asked for again later.
///
/// An event without a time is taken for old: one that never gets a time would stop the source for ever. So is one dated
/// further ahead than `tip_lag`, which no difference between two clocks explains: it would stop the source until then.
pub(super) fn cut_young(items: &mut Vec<Item>, now: DateTime<Utc>, tip_lag: Duration) {
    let tip_lag = TimeDelta::from_std(tip_lag).unwrap_or(TimeDelta::MAX);
    let Some(old_until) = now.checked_sub_signed(tip_lag) else { return };
    let occurred_at = |item: &Item| match item {
        Item::Good(event) => event.occurred_at,
        Item::Bad(bad) => bad.occurred_at,
    };
    let possible_until = now.checked_add_signed(tip_lag).unwrap_or(DateTime::<Utc>::MAX_UTC);
    let is_young =
        |item: &Item| occurred_at(item).is_some_and(|at| at > old_until && at <= possible_until);
    if let Some(first) = items.iter().position(is_young) {
        items.truncate(first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, JsonText};

    #[test]
    fn a_page_ends_before_its_first_young_event() {
        let now = DateTime::from_timestamp(1_790_000_000, 0).unwrap();
        let item = |(id, age): (i64, Option<i64>)| {
            let mut event = Event::new(id, JsonText::parse("{}").unwrap());
            event.occurred_at = age.map(|age| now - TimeDelta::seconds(age));
            Item::Good(event)
        };
        for (ages, want) in [
            (vec![Some(60), Some(10), Some(9), Some(60)], 2),
            (vec![Some(3)], 0),
            (vec![None, Some(60), None], 3),
            (vec![None, Some(-10), None], 1),
            (vec![None, Some(-11), Some(60), Some(-3_000_000_000), Some(9)], 4),
            (vec![], 0),
        ] {
            let mut items: Vec<Item> = (1..).zip(ages.iter().copied()).map(item).collect();
            cut_young(&mut items, now, Duration::from_secs(10));
            assert_eq!(items.len(), want, "{ages:?}");
        }
    }
}
