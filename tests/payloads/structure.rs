//! Keys, sizes, depth, and what stands around values.

use super::corpus::{ID_LENGTH, Row, aside, no_json, stored};

/// `max_event_bytes` of a source that sets none.
const EVENT_BYTES_MAX: usize = 1 << 20;

const KEYS: &[(&str, &str)] = &[
    ("empty", r#"{"":1}"#),
    ("empty in empty", r#"{"":{"":{"":null}}}"#),
    (
        "of a prototype",
        r#"{"__proto__":{"admin":true},"constructor":{"prototype":1},"toString":0}"#,
    ),
    ("by case", r#"{"a":1,"A":2,"ä":3,"Ä":4}"#),
    ("by composition", "{\"\u{e9}\":1,\"e\u{301}\":2}"),
    ("by white space", r#"{"a":1," a":2,"a ":3,"\ta":4}"#),
    ("numbers", r#"{"10":1,"9":2,"09":3,"1e1":4}"#),
    ("escaped", r#"{"\u0061\"\\\/":1}"#),
    ("emoji, escaped", r#"{"\ud83d\ude00":1}"#),
    ("pointers", r#"{"/":1,"~":2,"~0":3,"a/b":4}"#),
    ("of SQL", r#"{"select":1,"$1":2,"'":3,"--":4}"#),
    ("same in siblings", r#"[{"a":1},{"a":2},{"b":{"a":3},"a":4}]"#),
    ("same as outside", r#"{"id":7,"n":{"id":8}}"#),
    ("unsorted", r#"{"zz":1,"b":2,"aaa":3,"a":4}"#),
    ("id, escaped", r#"{"\u0069d":$ID,"x":1}"#),
    ("id, last", r#"{"x":[1],"y":{"id":5},"id":$ID}"#),
    ("id, by other case besides", r#"{"ID":"x","Id":2,"id":$ID}"#),
];

const REPEATED: &[(&str, &str)] = &[
    ("twice", r#"{"a":1,"a":2}"#),
    ("twice, equal", r#"{"a":1,"a":1}"#),
    ("twice, one escaped", r#"{"a":1,"\u0061":2}"#),
    ("empty twice", r#"{"":1,"":2}"#),
    ("twice, deep", r#"[[{"x":{"a":1,"b":0,"a":null}}]]"#),
    ("twice, pair escaped", r#"{"😀":1,"\ud83d\ude00":2}"#),
    ("id twice", r#"{"id":1,"id":$ID}"#),
];

pub(super) fn keys() -> Vec<Row> {
    let mut rows: Vec<Row> = KEYS.iter().map(|(name, raw)| stored(name, *raw)).collect();
    rows.extend(REPEATED.iter().map(|(name, raw)| aside(name, *raw, "more than once")));
    let many = |last: &str| {
        let keys: String = (0..5000).map(|n| format!("\"key {n}\":{n},")).collect();
        format!("{{{keys}\"{last}\":0}}")
    };
    rows.extend([
        stored("5001", many("key 5000")),
        aside("5000 and one again", many("key 2500"), "more than once"),
        stored("of 100,000 bytes", format!("{{\"{}\":1}}", "k".repeat(100_000))),
        stored("of 70,000 characters of four bytes", format!("{{\"{}\":1}}", "😀".repeat(70_000))),
        aside("with NUL", r#"{"a\u0000":1}"#, "a key of payload.n holds \\u0000"),
        aside("of half a pair", r#"{"\ud800":1}"#, "a key of payload.n holds the lone surrogate"),
        no_json("without quotes", "{a:1}"),
        no_json("in single quotes", "{'a':1}"),
        no_json("that is a number", "{1:1}"),
        no_json("that is null", "{null:1}"),
        no_json("without a value", r#"{"a"}"#),
        no_json("without a colon", r#"{"a" 1}"#),
        no_json("with two colons", r#"{"a"::1}"#),
    ]);
    rows
}

/// A text, so that the event is this long.
fn filling(length: usize, character: &str) -> String {
    let around = r#"{"id":,"n":""}"#.len() + ID_LENGTH;
    let (count, rest) = ((length - around) / character.len(), (length - around) % character.len());
    format!("\"{}{}\"", character.repeat(count), "x".repeat(rest))
}

fn nested(open: &str, close: &str, count: usize) -> String {
    format!("{}1{}", open.repeat(count), close.repeat(count))
}

pub(super) fn sizes() -> Vec<Row> {
    const LONG: &str = "is 1048577 bytes, over max_event_bytes = 1048576";
    const DEEP: &str = "nested deeper than 5000 levels";
    let mut rows = vec![
        stored("the longest event", filling(EVENT_BYTES_MAX, "x")),
        stored("the longest event, of four bytes a character", filling(EVENT_BYTES_MAX, "😀")),
        stored("one byte less", filling(EVENT_BYTES_MAX - 1, "x")),
        aside("one byte more", filling(EVENT_BYTES_MAX + 1, "x"), LONG),
        aside("one byte more, of four bytes a character", filling(EVENT_BYTES_MAX + 1, "😀"), LONG),
        aside(
            "white space counts",
            format!("{}1", " ".repeat(EVENT_BYTES_MAX)),
            "over max_event_bytes",
        ),
        stored("500,000 elements", format!("[{}0]", "0,".repeat(499_999))),
        stored("200,000 empty texts", format!("[{}\"\"]", "\"\",".repeat(200_000))),
        stored("100,000 empty objects", format!("[{}{{}}]", "{},".repeat(100_000))),
        stored("escapes six times as long", format!("\"{}\"", r"\u0041".repeat(150_000))),
        no_json("100,000 levels without an end", "[".repeat(100_000)),
    ];
    for depth in [127, 128, 129, 1000, 4999] {
        rows.push(stored(&format!("{depth} lists"), nested("[", "]", depth)));
        rows.push(stored(&format!("{depth} objects"), nested("{\"a\":", "}", depth)));
    }
    for depth in [5000, 10_000, 15_000, 100_000] {
        rows.push(aside(&format!("{depth} lists"), nested("[", "]", depth), DEEP));
        rows.push(aside(&format!("{depth} objects"), nested("{\"a\":", "}", depth), DEEP));
    }
    rows
}

pub(super) fn structure() -> Vec<Row> {
    let mut rows: Vec<Row> = [
        ("null", "null"),
        ("true", "true"),
        ("no members", "{}"),
        ("no elements", "[]"),
        ("white space of all kinds", "\r\n\t [ \t1\n,\r 2 ]  \n"),
        ("white space in an event", " { \"id\" :\t$ID , \"n\" : { } } "),
        ("an event of an id alone", r#"{"id":$ID}"#),
    ]
    .iter()
    .map(|(name, raw)| stored(name, *raw))
    .collect();
    rows.extend(
        [
            ("nothing", ""),
            ("comma at the end of a list", "[1,]"),
            ("comma at the end of an object", r#"{"a":1,}"#),
            ("comma at the beginning", "[,1]"),
            ("two commas", "[1,,2]"),
            ("no comma", "[1 2]"),
            ("crossed brackets", "[{]}"),
            ("bracket too many", "[1]]"),
            ("comment to the end of the line", "1 // one\n"),
            ("comment in between", "1 /* one */"),
            ("True", "True"),
            ("None", "None"),
            ("nul", "nul"),
            ("truefalse", "truefalse"),
            ("undefined", "undefined"),
            ("two values", "1 2"),
            ("a second event after it", r#"1} {"id":9999"#),
        ]
        .iter()
        .map(|(name, raw)| no_json(name, *raw)),
    );
    rows
}
