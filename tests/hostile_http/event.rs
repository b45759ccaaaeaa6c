//! Good pages with events that cannot be stored, or not as they are.

use eventloader::mapping::Mapping;

use super::{Hostile, Scene, case};
use crate::support::http::{Asked, Reply, Server};
use crate::support::loading::http;

/// A page of these items, ids from 1, for a source that ends with them.
fn items(asked: &Asked, items: &[String]) -> Reply {
    let from = usize::try_from(asked.after_id).unwrap().min(items.len());
    Reply::Json(format!("[{}]", items[from..].join(",")))
}

/// What PostgreSQL cannot hold, as the value of a member, and what has to stand in the reason.
fn unstorable() -> Vec<(String, &'static str)> {
    let deep = format!("{}1{}", "[".repeat(20_000), "]".repeat(20_000));
    vec![
        (r#""a\u0000b""#.to_owned(), "payload.n holds \\u0000, which PostgreSQL cannot store"),
        (r#"{"k\u0000":1}"#.to_owned(), "a key of payload.n holds \\u0000"),
        (r#"["x",{"y":"\ud800"}]"#.to_owned(), "payload.n[1].y holds the lone surrogate \\ud800"),
        (r#""\udc00\ud800""#.to_owned(), "the lone surrogate \\udc00"),
        (format!(r#""{}""#, "x".repeat(2 << 20)), "over max_event_bytes = 1048576"),
        (deep, "nested deeper than 5000 levels"),
        ("1e131072".to_owned(), "the number 1e131072, which has more than 131072 digits before"),
        ("-1E+99999999999".to_owned(), "which has an exponent out of range"),
        ("1e-16384".to_owned(), "which has more than 16383 digits after the decimal point"),
        (r#"{"a":1,"\u0061":2}"#.to_owned(), "payload.n has the key \"\\u0061\" more than once"),
        (format!(r#"{{"{}":"\u0000"}}"#, r"\n\u001b[2J".repeat(9_000)), "holds \\u0000"),
    ]
}

#[tokio::test]
async fn an_event_that_cannot_be_stored_is_set_aside_and_its_neighbours_go_on() {
    let unstorable = unstorable();
    // Good events have odd ids, bad ones even ids.
    let mut all = Vec::new();
    for (n, (value, _)) in unstorable.iter().enumerate() {
        all.push(format!(r#"{{"id":{},"n":"good"}}"#, 2 * n + 1));
        all.push(format!(r#"{{ "id" : {},  "n":{value}}}"#, 2 * n + 2));
    }
    let count = i64::try_from(all.len()).unwrap();
    let sent = all.clone();
    let server = Server::start(move |asked| items(asked, &sent)).await;
    let scene = Scene::with(vec![http("api", &server.url())]).await;
    let seen = scene.stored_up_to("api", count).await;
    assert_eq!(seen.last_requested_id, count);
    assert_eq!((seen.state.as_str(), seen.reason, seen.remedy), ("ok", None, None));
    assert_eq!(scene.ids("api").await, (1..count).step_by(2).collect::<Vec<_>>());
    let letters = scene.letters("api").await;
    assert_eq!(letters.len(), unstorable.len());
    for (n, (letter, (_, reason))) in letters.iter().zip(&unstorable).enumerate() {
        let place = 2 * n + 1;
        assert_eq!(
            (letter.kind.as_str(), letter.reference.clone()),
            ("event", (place + 1).to_string())
        );
        assert!(letter.reason.contains(reason), "{reason}: {}", letter.reason);
        assert_eq!(letter.body, all[place].as_bytes(), "{reason}: not verbatim");
    }
    let logged = scene.logged("api").await;
    assert_eq!((logged[0].status.as_str(), logged[0].event_count), ("succeeded", Some(11)));
    assert_eq!(server.asked("/events", 0), 1);
    scene.finish(&[&server]).await;
}

#[tokio::test]
async fn a_page_of_bad_events_alone_moves_the_cursor() {
    let server = Server::start(|asked| match asked.after_id {
        0 => Reply::Json(r#"[{"id":4,"n":"\u0000"},{"id":7,"n":"\ud800"}]"#.to_owned()),
        7 => Reply::Json(r#"[{"id":9}]"#.to_owned()),
        _ => Reply::Json("[]".to_owned()),
    })
    .await;
    let scene = Scene::with(vec![http("api", &server.url())]).await;
    scene.stored_up_to("api", 9).await;
    assert_eq!(scene.ids("api").await, [9]);
    let logged = scene.logged("api").await;
    assert_eq!((logged[0].status.as_str(), logged[0].event_count), ("succeeded", Some(0)));
    let references: Vec<_> = scene.letters("api").await.into_iter().map(|l| l.reference).collect();
    assert_eq!(references, ["4", "7"]);
    scene.finish(&[&server]).await;
}

#[tokio::test]
async fn the_greatest_id_there_is_can_be_stored() {
    let server = Server::start(|asked| match asked.after_id {
        i64::MAX => Reply::Json("[]".to_owned()),
        after_id => Reply::Json(format!(r#"[{{"id":{}}},{{"id":{}}}]"#, after_id + 7, i64::MAX)),
    })
    .await;
    let scene = Scene::with(vec![http("api", &server.url())]).await;
    scene.stored_up_to("api", i64::MAX).await;
    assert_eq!(scene.ids("api").await, [7, i64::MAX]);
    crate::support::wait_for("the tip to be asked again", || async {
        (server.asked("/events", i64::MAX) >= 2).then_some(())
    })
    .await;
    assert_eq!(scene.seen("api").await.state, "ok");
    scene.finish(&[&server]).await;
}

#[tokio::test]
async fn numbers_and_texts_keep_their_exact_value() {
    // As they are sent, and as PostgreSQL shows them.
    let values = [
        ("9007199254740993", "9007199254740993"),
        ("-9223372036854775809", "-9223372036854775809"),
        ("18446744073709551616", "18446744073709551616"),
        (
            "123456789012345678901234567890.12345678901234567890",
            "123456789012345678901234567890.12345678901234567890",
        ),
        ("0.1", "0.1"),
        ("1.10", "1.10"),
        ("1E-20", "0.00000000000000000001"),
        ("1e22", "10000000000000000000000"),
        // Numerically the same; numeric has no negative zero.
        ("-0", "0"),
        (r#""caf\u00e9 \ud83d\ude00 \u2028\t""#, "\"café 😀 \u{2028}\\t\""),
        (r#""\u0001\u001f""#, r#""\u0001\u001f""#),
        ("\"\u{feff}\u{202e}\"", "\"\u{feff}\u{202e}\""),
        (r#"{"b":1,"a":[],"":{}}"#, r#"{"": {}, "a": [], "b": 1}"#),
    ];
    let all: Vec<String> = (1..)
        .zip(&values)
        .map(|(id, (sent, _))| format!(r#"{{"id":{id},"n":{sent}}}"#))
        .chain([format!(r#"{{"id":{},"n":1e400}}"#, values.len() + 1)])
        .collect();
    let count = i64::try_from(all.len()).unwrap();
    // A byte order mark before the page is no part of it.
    let server = Server::start(move |asked| match items(asked, &all) {
        Reply::Json(text) => Reply::Json(format!("\u{feff}{text}\r\n")),
        other => other,
    })
    .await;
    let scene = Scene::with(vec![http("api", &server.url())]).await;
    scene.stored_up_to("api", count).await;
    let mut stored: Vec<String> = scene
        .database
        .column("select (payload -> 'n')::text from eventloader.events where stream = 'api' order by version")
        .await;
    assert_eq!(stored.pop().unwrap(), format!("1{}", "0".repeat(400)));
    for ((sent, want), stored) in values.iter().zip(&stored) {
        assert_eq!(stored, want, "sent as {sent}");
    }
    assert!(scene.letters("api").await.is_empty());
    scene.finish(&[&server]).await;
}

/// Pointers lead to the parts; a part that cannot be read makes its event bad, not its page.
#[tokio::test]
async fn pointers_find_the_parts_of_an_event() {
    const PAGE: &str = r#"{"data":{"events":[
        {"meta":{"id":1,"kind":"order.paid"},"at":"2026-05-06T07:08:09.5+02:00",
            "uuid":"01890a5d-ac96-774b-bcce-b302099a8057","body":{"total":"1.10"}},
        {"meta":{"id":2},"at":null,"uuid":null,"body":[1,2]},
        {"meta":{"id":3,"kind":"x"},"at":"yesterday","body":{}},
        {"meta":{"id":4,"kind":"x"},"uuid":"42","body":{}},
        {"meta":{"id":5,"kind":"x"}},
        {"meta":{"id":6,"kind":"x"},"uuid":"01890a5d-ac96-774b-bcce-b302099a8057","body":{"again":true}},
        {"meta":{"id":7,"kind":["x"]},"body":{}},
        {"meta":{"id":8,"kind":"a\u0000"},"body":{}},
        {"meta":{"id":9,"kind":"x"},"at":1778044089500,"body":null}]}}"#;
    let server = Server::start(|asked| {
        Reply::Json(if asked.after_id == 0 { PAGE } else { r#"{"data":{"events":[]}}"# }.to_owned())
    })
    .await;
    let mut given = http("api", &server.url());
    given.options().mapping = Mapping {
        items: "/data/events".parse().unwrap(),
        id: "/meta/id".parse().unwrap(),
        event_type: Some("/meta/kind".parse().unwrap()),
        occurred_at: Some("/at".parse().unwrap()),
        message_id: Some("/uuid".parse().unwrap()),
        payload: "/body".parse().unwrap(),
        ..Mapping::default()
    };
    let scene = Scene::with(vec![given]).await;
    scene.stored_up_to("api", 9).await;
    let stored: Vec<String> = scene
        .database
        .column(
            "select concat_ws(' ', version, event_type, message_id,
                 to_char(occurred_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS'), payload::text)
             from eventloader.events where stream = 'api' order by version",
        )
        .await;
    let want = [
        r#"1 order.paid 01890a5d-ac96-774b-bcce-b302099a8057 2026-05-06T05:08:09.500 {"total": "1.10"}"#,
        "2 api [1, 2]",
        "9 x 2026-05-06T05:08:09.500 null",
    ];
    assert_eq!(stored, want);
    let mut letters = scene.letters("api").await;
    letters.sort_by(|a, b| a.reference.cmp(&b.reference));
    let want = [
        ("event", "3", r#"occurred_at ("/at") is the string "yesterday", expected an RFC 3339"#),
        ("event", "4", r#"message_id ("/uuid") is the string "42", expected a UUID"#),
        ("event", "5", r#"payload ("/body") finds nothing in the event"#),
        (
            "conflict",
            "6",
            "message_id 01890a5d-ac96-774b-bcce-b302099a8057 is that of another event",
        ),
        ("event", "7", r#"event_type ("/meta/kind") is an array, expected a string"#),
        ("event", "8", r#"event_type ("/meta/kind")"#),
    ];
    assert_eq!(letters.len(), want.len(), "{letters:?}");
    for (letter, (kind, reference, reason)) in letters.iter().zip(want) {
        assert_eq!((letter.kind.as_str(), letter.reference.as_str()), (kind, reference));
        assert!(letter.reason.contains(reason), "{letter:?}");
    }
    let whole = r#"{"meta":{"id":3,"kind":"x"},"at":"yesterday","body":{}}"#;
    assert_eq!(letters[0].body, whole.as_bytes(), "the whole event is kept");
    scene.finish(&[&server]).await;
}

/// The same id with another body: what came first stays, the other is set aside, never silently.
#[tokio::test]
async fn an_id_that_comes_again_with_another_body_is_a_conflict() {
    let hostile = Hostile::start(
        vec![case("api", "", |asked| {
            let all = [
                r#"{"id":1,"n":"event 1"}"#,
                r#"{"id":2,"n":"CHANGED"}"#,
                r#"{"id":3, "n":"event 3"}"#,
            ];
            items(asked, &all.map(str::to_owned))
        })],
        3,
    )
    .await;
    hostile.cure();
    let scene = Scene::with(hostile.given()).await;
    scene.stored_up_to("api", 3).await;
    hostile.cured.store(false, std::sync::atomic::Ordering::Relaxed);
    scene.command(&["sources", "seek", "api", "--to", "0", "--yes"]).await;
    let letters = crate::support::wait_for("the conflict", || async {
        Some(scene.letters("api").await).filter(|letters| !letters.is_empty())
    })
    .await;
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].kind.as_str(), letters[0].reference.as_str()), ("conflict", "2"));
    assert_eq!(letters[0].reason, "events already holds this id with another body");
    let body: serde_json::Value = serde_json::from_slice(&letters[0].body).unwrap();
    assert_eq!(body, serde_json::json!({"id": 2, "n": "CHANGED"}));
    scene.stored_up_to("api", 3).await;
    let stored: Vec<String> = scene
        .database
        .column(
            "select payload ->> 'n' from eventloader.events where stream = 'api' order by position",
        )
        .await;
    assert_eq!(stored, ["event 1", "event 2", "event 3"]);
    assert_eq!(scene.seen("api").await.state, "ok");
    assert_eq!(hostile.asked("api", 0), 2);
    scene.finish(&[&hostile.server]).await;
}
