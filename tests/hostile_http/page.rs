//! Invalid pages: nothing of them is stored, the page is kept, the window waits for an operator.

use super::{Case, Hostile, Scene, case, encoded, gzip};
use crate::support::http::Reply;

const LIMIT: u32 = 3;
const SMALL_PAGE: usize = 100_000;

fn body(bytes: impl AsRef<[u8]>) -> Reply {
    Reply::Status(200, Vec::new(), bytes.as_ref().to_vec())
}

fn given(name: &'static str, reason: &'static str, text: impl Into<Vec<u8>>) -> Case {
    let text = text.into();
    case(name, reason, move |_| body(&text))
}

fn wrong_ids() -> Vec<Case> {
    vec![
        given(
            "unsorted",
            "item 1 has the id 1 after 2: ids must increase",
            r#"[{"id":2},{"id":1}]"#,
        ),
        given("repeated", "item 1 repeats the id 1", r#"[{"id":1},{"id":1,"n":2}]"#),
        given("behind", "item 0 has the id 0, expected one above after_id = 0", r#"[{"id":0}]"#),
        given("negative", "item 0 has the id -7, expected", r#"[{"id":-7},{"id":1}]"#),
        given("no-id", "item 1 has no id: `id` = \"/id\" finds nothing", r#"[{"id":1},{"n":1}]"#),
        given("text-id", r#"the string "007", expected an integer"#, r#"[{"id":"007"}]"#),
        given("fraction", "the number 1.0, expected an integer", r#"[{"id":1.0}]"#),
        given("exponent", "the number 1e2, expected an integer", r#"[{"id":1e2}]"#),
        given("null-id", "is null, expected an integer", r#"[{"id":null}]"#),
        given("object-id", "is an object with the key \"a\", expected", r#"[{"id":{"a":1}}]"#),
        given(
            "2-to-63",
            "9223372036854775808 at \"/id\" is beyond bigint",
            r#"[{"id":9223372036854775808}]"#,
        ),
        given(
            "2-to-64",
            "18446744073709551616 at \"/id\" is beyond",
            r#"[{"id":18446744073709551616}]"#,
        ),
        given("long-id", "1111…", format!(r#"[{{"id":{}}}]"#, "1".repeat(50_000))),
        given(
            "too-many",
            "4 events, more than limit = 3",
            r#"[{"id":1},{"id":2},{"id":3},{"id":4}]"#,
        ),
    ]
}

fn wrong_shapes() -> Vec<Case> {
    vec![
        given("words", "the body is not JSON", "Service up.\r\nHave a nice day\u{1b}[2J"),
        given("html", "looks like HTML", "<!DOCTYPE html><html><h1>Log in</h1></html>"),
        given("empty", "the body is empty", ""),
        given(
            "object",
            r#"did you mean `items` = "/events"?"#,
            r#"{"events":[{"id":1}],"next":null}"#,
        ),
        given("null", "found null", "null"),
        given("ends", "ends too early", r#"[{"id":1},{"id":"#),
        given("two", "the body is not JSON: trailing", "[][]"),
        given("lines", "one JSON value a line", "{\"id\":1}\n{\"id\":2}\n"),
        given("scalar", "item 0 is the number 1, expected an object", "[1]"),
        given(
            "deep",
            "item 0 is an array, expected an object",
            "[".repeat(20_000) + &"]".repeat(20_000),
        ),
        given("deeper", "ends too early", "[".repeat(20_000)),
        given(
            "bytes",
            "not UTF-8: byte 0xff at offset 14",
            b"[{\"id\":1,\"n\":\"\xff\"}]".to_vec(),
        ),
        given("nan", "the body is not JSON", r#"[{"id":1,"n":NaN}]"#),
        given("keys", "an object with the keys", wide_object()),
    ]
}

/// An object with long keys full of control characters.
fn wide_object() -> String {
    let members: Vec<_> =
        (0..100).map(|n| format!(r#""{n}\u0000\n\u001b{}":[]"#, "x".repeat(5000))).collect();
    format!("{{{}}}", members.join(","))
}

fn wrong_codings() -> Vec<Case> {
    let good = gzip(br#"[{"id":1}]"#);
    let mut damaged = good.clone();
    damaged[12] ^= 0xff;
    let truncated = good[..good.len() - 6].to_vec();
    vec![
        case("br", "content-encoding \"br\" was not asked for", |_| encoded("br", b"[]".to_vec())),
        case("coding", "was not asked for", |_| encoded(&"x".repeat(20_000), b"[]".to_vec())),
        case("damaged", "the gzip body is damaged", move |_| encoded("gzip", damaged.clone())),
        case("cut", "the gzip body is damaged", move |_| encoded("gzip", truncated.clone())),
        case("no-gzip", "the gzip body is damaged", |_| encoded("gzip", b"[]".to_vec())),
        case("partial", "206 Partial Content; expected 200", |_| {
            Reply::Status(206, Vec::new(), br#"[{"id":1}]"#.to_vec())
        }),
    ]
}

/// Every case holds, says why, keeps its page, and is asked exactly once more after `requests retry`.
#[tokio::test]
async fn an_invalid_page_is_kept_and_its_window_waits_for_an_operator() {
    let cases = [wrong_ids(), wrong_shapes(), wrong_codings()].into_iter().flatten().collect();
    let hostile = Hostile::start(cases, 3).await;
    let mut given = hostile.given();
    for source in &mut given {
        source.settings.batch_size = LIMIT;
    }
    let scene = Scene::with(given).await;
    let mut retry = vec!["requests".to_owned(), "retry".to_owned()];
    for (name, reason) in &hostile.cases {
        let seen = scene.settled(name, "held").await;
        let logged = scene.logged(name).await;
        let [request] = logged.as_slice() else { panic!("{name}: {logged:?}") };
        assert_eq!((request.status.as_str(), request.after_id, request.attempt), ("failed", 0, 1));
        let error = request.error.as_deref().unwrap();
        assert!(error.starts_with("invalid page: ") && error.contains(reason), "{name}: {error}");
        assert_eq!(seen.reason(), error, "{name}");
        assert_eq!(seen.held_request_id, Some(request.id), "{name}");
        let remedy = format!("eventloader requests retry {}", request.id);
        assert_eq!(seen.remedy.as_deref(), Some(remedy.as_str()), "{name}");
        assert_eq!((seen.last_requested_id, seen.last_stored_id), (0, 0), "{name}");
        let letters = scene.letters(name).await;
        let [letter] = letters.as_slice() else { panic!("{name}: {letters:?}") };
        assert_eq!(letter.kind, "page", "{name}");
        assert_eq!(letter.reference, format!("request {}", request.id), "{name}");
        assert_eq!(letter.reason, error, "{name}");
        assert_eq!(hostile.asked(name, 0), 1, "{name}");
        retry.push(request.id.to_string());
    }
    hostile.cure();
    scene.command(&retry.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for (name, _) in &hostile.cases {
        scene.stored_up_to(name, 3).await;
        assert_eq!(scene.ids(name).await, [1, 2, 3], "{name}");
        let logged = scene.logged(name).await;
        let window: Vec<_> = logged.iter().filter(|request| request.after_id == 0).collect();
        let [first, second] = window.as_slice() else { panic!("{name}: {logged:?}") };
        assert_eq!(
            (first.status.as_str(), first.closed_by.as_deref()),
            ("retried", Some("operator tester"))
        );
        assert_eq!((second.status.as_str(), second.attempt), ("succeeded", 2), "{name}");
        assert_eq!(hostile.asked(name, 0), 2, "{name}");
        let seen = scene.seen(name).await;
        assert_eq!((seen.state.as_str(), seen.remedy), ("ok", None), "{name}");
    }
    scene.finish(&[&hostile.server]).await;
}

/// The body of the dead letter is the page, byte by byte; of a page that is too large, its beginning.
#[tokio::test]
async fn an_invalid_page_is_kept_verbatim() {
    let torn = b"[{\"id\":1,\"n\":\"\xff\x00\"}".to_vec();
    let unpacked = b"{\"id\" : 1}".to_vec();
    let large = vec![b' '; 5 * SMALL_PAGE];
    let bomb = gzip(&vec![b' '; 20 << 20]);
    let coded = gzip(&unpacked)[..20].to_vec();
    let want = [
        ("torn", torn.clone()),
        ("unpacked", unpacked.clone()),
        ("coded", coded.clone()),
        ("large", Vec::new()),
        ("bomb", Vec::new()),
        ("endless", Vec::new()),
    ];
    let hostile = Hostile::start(
        vec![
            case("torn", "", move |_| body(&torn)),
            case("unpacked", "", move |_| encoded("gzip", gzip(&unpacked))),
            case("coded", "", move |_| encoded("gzip", coded.clone())),
            case("large", "", move |_| body(&large)),
            case("bomb", "", move |_| encoded("x-gzip", bomb.clone())),
            case("endless", "", |_| {
                let chunk = format!("{SMALL_PAGE:x}\r\n{}\r\n", " ".repeat(SMALL_PAGE)).repeat(5);
                let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                Reply::Raw(format!("{head}{chunk}").into_bytes())
            }),
        ],
        3,
    )
    .await;
    let mut given = hostile.given();
    for source in &mut given {
        source.options().max_page_bytes = SMALL_PAGE;
    }
    let scene = Scene::with(given).await;
    for (name, want) in want {
        scene.settled(name, "held").await;
        let letters = scene.letters(name).await;
        assert_eq!(letters.len(), 1, "{name}");
        if !want.is_empty() {
            assert_eq!(letters[0].body, want, "{name}");
            continue;
        }
        let reason = &letters[0].reason;
        assert!(
            reason.contains("larger than max_page_bytes = 100000; lower batch_size"),
            "{reason}"
        );
        let kept = &letters[0].body;
        assert!(kept.len() <= 2 * SMALL_PAGE && kept.iter().all(|byte| *byte == b' '), "{name}");
        assert!(reason.contains(&format!("first {} bytes are kept", kept.len())), "{reason}");
    }
    scene.finish(&[&hostile.server]).await;
}
