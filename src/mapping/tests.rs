use chrono::DateTime;
use proptest::prelude::*;

use super::*;

fn pointer(text: &str) -> Pointer {
    text.parse().unwrap()
}

fn full() -> Mapping {
    Mapping {
        items: pointer("/data/events"),
        id: pointer("/meta/id"),
        event_type: Some(pointer("/type")),
        occurred_at: Some(pointer("/at")),
        message_id: Some(pointer("/uuids/1")),
        payload: pointer("/body"),
        max_event_bytes: 1000,
    }
}

fn page(mapping: &Mapping, body: &str) -> Result<Vec<Item>, PageError> {
    mapping.items_of_page(&Bytes::copy_from_slice(body.as_bytes()))
}

/// Found by fuzzing: characters that are escaped were counted as one.
#[test]
fn what_is_said_of_a_page_is_short_whatever_its_keys_are() {
    for key in ["\u{7f}", "\u{feff}", "\u{10ffff}", "\\u0000"] {
        let members: Vec<_> = (0..20).map(|n| format!("\"{}{n}\":[]", key.repeat(80))).collect();
        let object = members.join(",");
        for body in [
            format!("{{{object}}}"),
            format!("[{{{object}}}]"),
            format!("[{{\"id\":{{{object}}}}}]"),
        ] {
            let length = page_message(&Mapping::default(), &body).chars().count();
            assert!(length < 600, "{length} characters");
        }
    }
}

fn page_message(mapping: &Mapping, body: &str) -> String {
    page(mapping, body).expect_err(body).to_string()
}

fn good(item: &Item) -> &Event {
    match item {
        Item::Good(event) => event,
        Item::Bad(event) => panic!("{}", event.reason),
    }
}

fn bad(item: &Item) -> &BadEvent {
    match item {
        Item::Good(event) => panic!("{event:?}"),
        Item::Bad(event) => event,
    }
}

#[test]
fn a_plain_page_becomes_events() {
    let items = page(&Mapping::default(), " [ {\"id\": 1}, {\"a\":[], \"id\":-2 } ]\n").unwrap();
    let payloads: Vec<_> = items.iter().map(|item| good(item).payload.as_str()).collect();
    assert_eq!(payloads, ["{\"id\": 1}", "{\"a\":[], \"id\":-2 }"]);
    assert_eq!(items.iter().map(Item::id).collect::<Vec<_>>(), [Some(1), Some(-2)]);
    assert_eq!(page(&Mapping::default(), "[]"), Ok(vec![]));
}

#[test]
fn every_part_is_found_by_its_pointer() {
    let body = r#"{"next":null,"data":{"events":[{"type":"a.b","at":"2024-05-06 07:08:09Z",
        "uuids":[0,"67e55044-10b1-426f-9247-bb680e5fe0c8"],"body":{"n":1.0},"meta":{"id":7}}]}}"#;
    let items = page(&full(), body).unwrap();
    let event = good(&items[0]);
    assert_eq!(event.id, 7);
    assert_eq!(event.event_type.as_deref(), Some("a.b"));
    assert_eq!(event.payload.as_str(), "{\"n\":1.0}");
    let at = DateTime::parse_from_rfc3339("2024-05-06T07:08:09Z").unwrap().to_utc();
    assert_eq!(event.occurred_at, Some(at));
    assert_eq!(event.message_id.unwrap().to_string(), "67e55044-10b1-426f-9247-bb680e5fe0c8");
}

#[test]
fn payloads_are_slices_of_the_body() {
    let body = Bytes::from_static(b"[{\"id\":1}]");
    let items = Mapping::default().items_of_page(&body).unwrap();
    assert_eq!(good(&items[0]).payload.as_bytes().as_ptr(), body[1..].as_ptr());
}

#[test]
fn the_last_of_repeated_keys_counts_for_pointers() {
    let mapping = Mapping { payload: pointer("/p"), ..Mapping::default() };
    let items = page(&mapping, r#"[{"id":1,"p":0,"\u0069d":2,"p":3}]"#).unwrap();
    assert_eq!((good(&items[0]).id, good(&items[0]).payload.as_str()), (2, "3"));
}

#[test]
fn types_are_read_from_scalars() {
    let mapping = Mapping { event_type: Some(pointer("/t")), ..Mapping::default() };
    let long = format!("\"{}\"", "x".repeat(MAX_EVENT_TYPE_BYTES + 1));
    for (raw, want) in [
        (r#""order.paid""#, Ok(Some("order.paid"))),
        (r#""a\u002eb""#, Ok(Some("a.b"))),
        ("7", Ok(Some("7"))),
        ("1.50", Ok(Some("1.50"))),
        ("true", Ok(Some("true"))),
        ("null", Ok(None)),
        (r#""""#, Ok(None)),
        (r#"{"a":1}"#, Err("is an object with the key \"a\", expected a string")),
        ("[]", Err("is an array, expected a string")),
        (long.as_str(), Err("is 1001 bytes long, at most 1000")),
    ] {
        let items = page(&mapping, &format!("[{{\"id\":1,\"t\":{raw}}}]")).unwrap();
        match want {
            Ok(want) => assert_eq!(good(&items[0]).event_type.as_deref(), want, "{raw}"),
            Err(want) => {
                assert_eq!(bad(&items[0]).reason, format!("event_type (\"/t\") {want}"), "{raw}");
            }
        }
    }
    assert_eq!(good(&page(&mapping, "[{\"id\":1}]").unwrap()[0]).event_type, None);
    let nul = Mapping { payload: pointer("/id"), ..mapping };
    let items = page(&nul, r#"[{"id":1,"t":"a\u0000"}]"#).unwrap();
    let want = "event_type (\"/t\") holds \\u0000, which PostgreSQL cannot store";
    assert_eq!(bad(&items[0]).reason, want);
}

#[test]
fn message_ids_are_uuids_or_null() {
    let mapping = Mapping { message_id: Some(pointer("/m")), ..Mapping::default() };
    let of = |raw: &str| page(&mapping, &format!("[{{\"id\":1,\"m\":{raw}}}]")).unwrap().remove(0);
    assert_eq!(good(&of("null")).message_id, None);
    for raw in ["67E55044-10b1-426f-9247-bb680e5fe0c8", "67e5504410b1426f9247bb680e5fe0c8"] {
        assert!(good(&of(&format!("\"{raw}\""))).message_id.is_some(), "{raw}");
    }
    for (raw, want) in [
        (r#""41""#, "the string \"41\""),
        (r#""""#, "the string \"\""),
        ("41", "the number 41"),
        ("[]", "an array"),
    ] {
        let want = format!("message_id (\"/m\") is {want}, expected a UUID");
        assert_eq!(bad(&of(raw)).reason, want);
    }
}

#[test]
fn a_bad_event_is_kept_whole_beside_good_neighbours() {
    let body = r#"{"data":{"events":[
        {"meta":{"id":1},"body":1,"type":"t"},
        {"meta":{"id":2},"body":{"x":"\u0000"},"type":"t","at":0},
        {"meta":{"id":3},"type":"t"},
        {"meta":{"id":4},"body":4,"type":[],"at":[]},
        {"meta":{"id":5},"body":5,"at":"soon","uuids":[0,"67e55044-10b1-426f-9247-bb680e5fe0c8"]},
        {"meta":{"id":6},"body":"LONG"},
        {"meta":{"id":7},"body":7}]}}"#
        .replace("LONG", &"x".repeat(1000));
    let items = page(&full(), &body).unwrap();
    assert_eq!(items.iter().filter_map(Item::id).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!((good(&items[0]).id, good(&items[6]).id), (1, 7));
    let reasons: Vec<_> = items[1..6].iter().map(|item| bad(item).reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "payload.x holds \\u0000, which PostgreSQL cannot store",
            "payload (\"/body\") finds nothing in the event",
            "event_type (\"/type\") is an array, expected a string",
            "occurred_at (\"/at\") is the string \"soon\", expected an RFC 3339 time or a Unix time \
             in seconds or milliseconds (premature end of input)",
            "the event is 1027 bytes, over max_event_bytes = 1000",
        ]
    );
    let second = bad(&items[1]);
    assert_eq!((second.reference.as_str(), second.payload_at.as_str()), ("2", "/body"));
    assert_eq!(second.body, r#"{"meta":{"id":2},"body":{"x":"\u0000"},"type":"t","at":0}"#);
    assert_eq!(second.event_type.as_deref(), Some("t"));
    assert_eq!(second.occurred_at, Some(DateTime::UNIX_EPOCH));
    assert!(bad(&items[4]).message_id.is_some());
}

#[test]
fn a_dead_letter_is_judged_alike_when_replayed() {
    let mapping = full();
    let body = r#"{"data":{"events":[{"meta":{"id":2},"body":"\ud800","type":"t"}]}}"#;
    let items = page(&mapping, body).unwrap();
    let again = mapping.item(&bad(&items[0]).body).unwrap();
    assert_eq!(again, items[0]);
    let relaxed = Mapping { payload: pointer("/meta"), ..mapping };
    assert_eq!(good(&relaxed.item(&bad(&items[0]).body).unwrap()).id, 2);
}

#[test]
fn a_line_that_is_not_json_is_one_bad_event() {
    let mapping = Mapping::default();
    for (line, want) in [
        (
            &b"{\"id\":1"[..],
            "the body is not JSON: EOF while parsing an object at line 1, column 7 (the body ends too early)",
        ),
        (
            b"",
            "the body is not JSON: EOF while parsing a value at line 1, column 0 (the body is empty)",
        ),
        (b"{\"id\":1}{\"id\":2}", "the body is not JSON: trailing characters at line 1, column 9"),
        (b"{\"id\":\"\xff\"}", "the body is not UTF-8: byte 0xff at offset 7 (JSON must be UTF-8)"),
    ] {
        let item = mapping.item(&Bytes::from_static(line)).unwrap();
        assert_eq!((item.id(), bad(&item).reason.as_str()), (None, want));
        assert_eq!((&bad(&item).body[..], bad(&item).reference.as_str()), (line, ""));
        assert_eq!(mapping.item_with_id(&Bytes::from_static(line), 9).id(), Some(9));
    }
}

#[test]
fn a_line_is_one_event() {
    let mapping = Mapping::default();
    let item = mapping.item(&Bytes::from_static(b"\xef\xbb\xbf {\"id\":3}\r\n")).unwrap();
    assert_eq!((good(&item).id, good(&item).payload.as_str()), (3, "{\"id\":3}"));
    let bad_line = b" {\"id\":3,\"x\":\"\\u0000\"}\r\n";
    assert_eq!(&bad(&mapping.item(&Bytes::from_static(bad_line)).unwrap()).body[..], bad_line);
    assert!(matches!(
        mapping.item(&Bytes::from_static(b"{}")),
        Err(PageError::IdMissing { index: 0, .. })
    ));
}

#[test]
fn an_item_with_a_known_id_may_be_any_value() {
    let mapping = Mapping { event_type: Some(pointer("/0")), ..Mapping::default() };
    for (raw, event_type) in [("42", None), ("[\"t\",1]", Some("t")), ("{\"0\":\"o\"}", Some("o"))]
    {
        let item = mapping.item_with_id(&Bytes::copy_from_slice(raw.as_bytes()), 5);
        let event = good(&item);
        assert_eq!((event.id, event.payload.as_str()), (5, raw));
        assert_eq!(event.event_type.as_deref(), event_type);
    }
}

#[test]
fn bodies_that_are_not_json_say_what_they_may_be() {
    let mapping = Mapping::default();
    for (body, want) in [
        ("", "EOF while parsing a value at line 1, column 0 (the body is empty)"),
        (
            "<!DOCTYPE html>\n<p>",
            "expected value at line 1, column 1 (the body looks like HTML, perhaps an error or a login page)",
        ),
        ("<?xml version=\"1.0\"?>", "expected value at line 1, column 1 (the body looks like XML)"),
        (
            "[{\"id\":1},\n{\"id\":",
            "EOF while parsing a value at line 2, column 6 (the body ends too early)",
        ),
        ("[{\"id\":1},]", "expected value at line 1, column 11"),
        (
            "{\"id\":1}\n{\"id\":2}",
            "trailing characters at line 2, column 1 (the body looks like one JSON value a line, expected one array)",
        ),
        ("[{\"id\":01}]", "invalid number at line 1, column 9"),
        ("[\"\\x\"]", "invalid escape at line 1, column 4"),
        ("[\"\\u12g4\"]", "invalid escape at line 1, column 8"),
        (
            "[\"\u{1}\"]",
            "control character (\\u0000-\\u001F) found while parsing a string at line 1, column 2",
        ),
        ("NaN", "expected value at line 1, column 1"),
    ] {
        assert_eq!(page_message(&mapping, body), format!("the body is not JSON: {want}"));
    }
    let invalid = mapping.items_of_page(&Bytes::from_static(b"[{\"id\":1,\"a\":\"\xc3\x28\"}]"));
    assert_eq!(
        invalid.unwrap_err().to_string(),
        "the body is not UTF-8: byte 0xc3 at offset 14 (JSON must be UTF-8)"
    );
}

#[test]
fn items_that_are_not_there_are_suggested() {
    let at = |items: &str| Mapping { items: pointer(items), ..Mapping::default() };
    for (items, body, want) in [
        (
            "",
            r#"{"events":[],"next":1}"#,
            "`items` = \"\" must find an array of events, found an object with the keys \"events\", \"next\"; did you mean `items` = \"/events\"?",
        ),
        (
            "",
            r#"{"a":[],"b":[]}"#,
            "`items` = \"\" must find an array of events, found an object with the keys \"a\", \"b\"",
        ),
        ("", "{}", "`items` = \"\" must find an array of events, found an object without members"),
        ("", "null", "`items` = \"\" must find an array of events, found null"),
        (
            "",
            "\"no\\u0000\u{202e}\"",
            "`items` = \"\" must find an array of events, found the string \"no\\u0000\\u202e\"",
        ),
        (
            "/data",
            r#"{"data":{"a/b":[1]},"x":[]}"#,
            "`items` = \"/data\" must find an array of events, found an object with the key \"a/b\"; did you mean `items` = \"/data/a~1b\"?",
        ),
        (
            "/data",
            r#"{"data":7,"x":[]}"#,
            "`items` = \"/data\" must find an array of events, found the number 7; did you mean `items` = \"/x\"?",
        ),
        (
            "/event",
            r#"{"error":"slow down"}"#,
            "`items` = \"/event\" finds nothing: the body is an object with the key \"error\"",
        ),
        (
            "/event",
            r#"{"events":[]}"#,
            "`items` = \"/event\" finds nothing: the body is an object with the key \"events\"; did you mean `items` = \"/events\"?",
        ),
        (
            "/events",
            "[]",
            "`items` = \"/events\" finds nothing: the body is an array; did you mean `items` = \"\"?",
        ),
    ] {
        assert_eq!(page_message(&at(items), body), want, "{body}");
    }
}

#[test]
fn ids_must_be_integers_within_bigint() {
    let min = "-9223372036854775808";
    for (raw, want) in
        [("0", 0), ("-0", 0), ("-1", -1), (min, i64::MIN), ("9223372036854775807", i64::MAX)]
    {
        let items = page(&Mapping::default(), &format!("[{{\"id\":{raw}}}]")).unwrap();
        assert_eq!(items[0].id(), Some(want));
    }
    let range = "at \"/id\" is beyond bigint (-9223372036854775808 to 9223372036854775807)";
    for (raw, want) in [
        (
            "\"007\"",
            "item 1: the id at \"/id\" is the string \"007\", expected an integer".to_owned(),
        ),
        ("1.0", "item 1: the id at \"/id\" is the number 1.0, expected an integer".to_owned()),
        ("1e3", "item 1: the id at \"/id\" is the number 1e3, expected an integer".to_owned()),
        ("null", "item 1: the id at \"/id\" is null, expected an integer".to_owned()),
        ("true", "item 1: the id at \"/id\" is the boolean true, expected an integer".to_owned()),
        ("[1]", "item 1: the id at \"/id\" is an array, expected an integer".to_owned()),
        ("9223372036854775808", format!("item 1: the id 9223372036854775808 {range}")),
        ("-9223372036854775809", format!("item 1: the id -9223372036854775809 {range}")),
        ("18446744073709551616", format!("item 1: the id 18446744073709551616 {range}")),
    ] {
        let body = format!("[{{\"id\":1}},{{\"id\":{raw}}}]");
        assert_eq!(page_message(&Mapping::default(), &body), want);
    }
    for (body, want) in [
        (
            "[{\"id\":1},{\"Id\":2,\"x\":0}]",
            "item 1 has no id: `id` = \"/id\" finds nothing; the item is an object with the keys \"Id\", \"x\"",
        ),
        ("[7]", "item 0 is the number 7, expected an object"),
        ("[{\"id\":1},[{\"id\":1}]]", "item 1 is an array, expected an object"),
        ("[null]", "item 0 is null, expected an object"),
    ] {
        assert_eq!(page_message(&Mapping::default(), body), want);
    }
}

#[test]
fn messages_stay_short() {
    let long = "x".repeat(100_000);
    for body in [
        format!("[\"{long}\"]"),
        format!("[{{\"id\":\"{long}\"}}]"),
        format!("[{{\"id\":{}}}]", "9".repeat(100_000)),
        format!("{{\"{long}\":[]}}"),
        format!("[{{\"{long}\":1}}]"),
    ] {
        let message = page_message(&Mapping::default(), &body);
        assert!(message.len() < 400, "{message}");
    }
}

#[test]
fn order_is_checked() {
    for (ids, after_id, limit, want) in [
        (&[][..], 5, 0, None),
        (&[6, 7, 9], 5, 3, None),
        (&[i64::MIN + 1, 0, i64::MAX], i64::MIN, 3, None),
        (&[0], -1, 1, None),
        (
            &[6, 7],
            5,
            1,
            Some("the page has 2 events, more than limit = 1; does the source heed limit?"),
        ),
        (
            &[7, 6, 8],
            5,
            2,
            Some("the page has 3 events, more than limit = 2; does the source heed limit?"),
        ),
        (
            &[5, 6],
            5,
            9,
            Some(
                "item 0 has the id 5, expected one above after_id = 5; does the source heed after_id?",
            ),
        ),
        (
            &[-7],
            5,
            9,
            Some(
                "item 0 has the id -7, expected one above after_id = 5; does the source heed after_id?",
            ),
        ),
        (&[6, 6], 5, 9, Some("item 1 repeats the id 6 of the item before it")),
        (&[6, 9, 8], 5, 9, Some("item 2 has the id 8 after 9: ids must increase strictly")),
        (
            &[6, 9, 3, 1],
            5,
            9,
            Some(
                "item 2 has the id 3, expected one above after_id = 5; does the source heed after_id?",
            ),
        ),
    ] {
        let checked = check_order(ids.iter().copied(), after_id, limit);
        assert_eq!(checked.err().map(|error| error.to_string()).as_deref(), want, "{ids:?}");
    }
}

#[test]
fn deep_nesting_in_one_event_spares_its_neighbours() {
    let deep = "[".repeat(20_000) + &"]".repeat(20_000);
    let objects = "{\"a\":".repeat(20_000) + "0" + &"}".repeat(20_000);
    let body = format!("[{{\"id\":1,\"x\":{deep}}},{{\"y\":{objects},\"id\":2}},{{\"id\":3}}]");
    let items = page(&Mapping::default(), &body).unwrap();
    assert!(bad(&items[0]).reason.contains("nested deeper than 5000"));
    assert!(bad(&items[1]).reason.contains("nested deeper than 5000"));
    assert_eq!(good(&items[2]).id, 3);
}

#[test]
fn a_lone_surrogate_in_a_key_makes_one_event_bad() {
    let items = page(&Mapping::default(), r#"[{"\ud800":1,"id":1},{"id":2}]"#).unwrap();
    assert!(bad(&items[0]).reason.starts_with("a key of payload holds the lone surrogate \\ud800"));
    assert_eq!(good(&items[1]).id, 2);
    let outside = Mapping { items: pointer("/items"), ..Mapping::default() };
    assert_eq!(page(&outside, r#"{"\udead":0,"items":[{"id":1}]}"#).unwrap().len(), 1);
}

fn value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn values_round_trip_exactly(values in prop::collection::vec(value(), 0..4)) {
        let mapping = Mapping { payload: pointer("/data"), ..Mapping::default() };
        let texts: Vec<String> = values.iter().map(|value| format!("{{\"data\":{value},\"id\":1}}")).collect();
        let items = page(&mapping, &format!("[{}]", texts.join(","))).unwrap();
        prop_assert_eq!(items.len(), values.len());
        for ((item, value), text) in items.iter().zip(&values).zip(&texts) {
            match item {
                Item::Good(event) => prop_assert_eq!(event.payload.as_str(), value.to_string()),
                Item::Bad(event) => {
                    prop_assert!(JsonText::from_value(value).screen().is_err());
                    prop_assert_eq!(&event.body[..], text.as_bytes());
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_refused_without_panic(body in prop::collection::vec(any::<u8>(), 0..60)) {
        let body = Bytes::from(body);
        drop(Mapping::default().items_of_page(&body));
        drop(full().item(&body));
    }
}
