//! Bytes of a page → events. Each good one has to be what an independent parser reads, and each bad one has to have a
//! reason that this parser sees too. The first byte says how the page is mapped.

#![no_main]

use std::sync::Arc;

use bytes::Bytes;
use eventloader::event::{BadEvent, Event, Item};
use eventloader::mapping::message::{MessageMapping, Payload};
use eventloader::mapping::{Mapping, PageError, check_order};
use eventloader::source::queue::Message;
use exact::{Exact, Flaw, Parsed};
use libfuzzer_sys::fuzz_target;

#[path = "../../tests/payloads/exact.rs"]
#[allow(dead_code)]
mod exact;

const MAX_EVENT_BYTES: usize = 2000;
/// Somewhat below what is refused: one who says "too much" below it is wrong.
const PRINTED_DIGITS_MIN: u64 = 15 << 20;

fuzz_target!(|data: &[u8]| {
    let Some((how, body)) = data.split_first() else { return };
    let body = Bytes::copy_from_slice(body);
    let mapping = mapping(*how);
    match how & 0b11 {
        0 => page(&mapping, &body),
        1 => page(&Mapping { items: "/data/0".parse().unwrap(), ..mapping }, &body),
        2 => lines(&mapping, &body),
        _ => {
            message(&body, how & 4 != 0);
            check(&mapping, &mapping.item_with_id(&body, 7), None);
        }
    }
});

fn mapping(how: u8) -> Mapping {
    let plain = Mapping { max_event_bytes: MAX_EVENT_BYTES, ..Mapping::default() };
    if how & 4 == 0 {
        return plain;
    }
    Mapping {
        event_type: Some("/type".parse().unwrap()),
        occurred_at: Some("/at".parse().unwrap()),
        message_id: Some("/uuid".parse().unwrap()),
        payload: "/body".parse().unwrap(),
        ..plain
    }
}

/// The text without a byte order mark, and its value.
fn read(body: &[u8]) -> Result<Parsed, ()> {
    let text = std::str::from_utf8(body).map_err(|_| ())?;
    exact::parse(text.strip_prefix('\u{feff}').unwrap_or(text)).ok_or(())
}

fn page(mapping: &Mapping, body: &Bytes) {
    let parsed = read(body);
    let items = match mapping.items_of_page(body) {
        Ok(items) => items,
        Err(error) => return check_error(&error, parsed.is_ok(), body),
    };
    let whole = parsed.expect("what is taken is JSON").value;
    let array = match mapping.items.as_str() {
        "" => Some(&whole),
        _ => whole.step("data").and_then(|data| data.step("0")),
    };
    let Some(Exact::Array(elements)) = array else { panic!("items are no array") };
    assert_eq!(items.len(), elements.len());
    for (item, element) in items.iter().zip(elements) {
        assert_eq!(item.id(), element.step("id").and_then(Exact::integer));
        check(mapping, item, Some(element));
    }
    drop(check_order(items.iter().filter_map(Item::id), 0, 100));
}

fn lines(mapping: &Mapping, body: &Bytes) {
    if let Ok(items) = mapping.items_of_lines(body) {
        let text = std::str::from_utf8(body).expect("what is taken is UTF-8");
        let lines = text.lines().map(str::trim_ascii).filter(|line| !line.is_empty());
        let elements: Vec<Exact> =
            lines.map(|line| read(line.as_bytes()).expect("a line is JSON").value).collect();
        assert_eq!(items.len(), elements.len());
        for (item, element) in items.iter().zip(&elements) {
            check(mapping, item, Some(element));
        }
    }
}

fn check_error(error: &PageError, is_json: bool, body: &[u8]) {
    let is_syntax = matches!(error, PageError::NotUtf8 { .. } | PageError::NotJson { .. });
    assert_eq!(is_syntax, !is_json, "{error}: {}", body.escape_ascii());
    check_text(&error.to_string());
}

/// What is logged and stored for people.
fn check_text(text: &str) {
    assert!(!text.is_empty() && text.chars().count() <= 1000, "{} characters", text.len());
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

fn check(mapping: &Mapping, item: &Item, element: Option<&Exact>) {
    match item {
        Item::Good(event) => check_good(mapping, event, element),
        Item::Bad(bad) => check_bad(mapping, bad, element),
    }
}

fn check_good(mapping: &Mapping, event: &Event, element: Option<&Exact>) {
    let payload = read(event.payload.as_bytes()).expect("a payload is JSON");
    assert_eq!(payload.flaws, [], "{}", event.payload);
    if let Some(element) = element {
        let want = match mapping.payload.as_str() {
            "" => Some(element),
            _ => element.step("body"),
        };
        assert_eq!(want, Some(&payload.value));
    }
    assert!(event.event_type.as_ref().is_none_or(|name| !name.is_empty() && !name.contains('\0')));
}

fn check_bad(mapping: &Mapping, bad: &BadEvent, element: Option<&Exact>) {
    check_text(&bad.reason);
    let body = read(&bad.body);
    if let Some(element) = element {
        assert_eq!(body.as_ref().map(|body| &body.value), Ok(element), "not verbatim");
        // Given back, it is judged the same.
        match mapping.item(&bad.body) {
            Ok(Item::Bad(again)) => {
                assert_eq!((again.reason, again.id), (bad.reason.clone(), bad.id))
            }
            other => panic!("{other:?} after {}", bad.reason),
        }
    }
    if mapping.event_type.is_none() {
        let is_justified = bad.body.len() > MAX_EVENT_BYTES
            || body.is_ok_and(|body| is_flawed(&body))
            || element.is_none() && read(&bad.body).is_err();
        assert!(is_justified, "{}: {}", bad.reason, bad.body.escape_ascii());
    }
}

fn is_flawed(parsed: &Parsed) -> bool {
    parsed.flaws != [] as [Flaw; 0] || parsed.printed_digits > PRINTED_DIGITS_MIN
}

/// The same body as a message of a broker.
fn message(body: &Bytes, whole: bool) {
    let message =
        Message { body: body.clone(), routed_as: Arc::from("topic"), ..Message::default() };
    let payload = if whole { Payload::At(Default::default()) } else { Payload::Unwrapped };
    let mapping =
        MessageMapping { payload, max_event_bytes: MAX_EVENT_BYTES, ..MessageMapping::default() };
    match mapping.decode(&message) {
        Ok(decoded) => {
            let taken = read(decoded.payload.as_bytes()).expect("a payload is JSON");
            assert_eq!(taken.flaws, []);
            let sent = read(body).expect("what is taken is JSON").value;
            let unwrapped = sent.step("payload").filter(|value| !whole && **value != Exact::Null);
            assert_eq!(&taken.value, unwrapped.unwrap_or(&sent));
        }
        Err(reason) => check_text(&reason),
    }
}
