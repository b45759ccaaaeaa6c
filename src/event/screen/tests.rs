use proptest::prelude::*;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::*;
use crate::event::valid_json;

fn check(text: &str) -> Result<(), Unstorable> {
    assert!(valid_json(text).is_ok(), "not JSON: {text}");
    Screen::default().check(text, "payload")
}

fn reason(text: &str) -> String {
    check(text).expect_err(text).to_string()
}

#[test]
fn what_jsonb_holds_passes() {
    for text in [
        "null",
        "true",
        "false",
        "0",
        "-0.0e5",
        "\"\"",
        "{}",
        "[]",
        r#" { "a" : [ 1 , { "a" : 2 } ] , "b" : { "a" : null } } "#,
        r#"{"a":1,"A":2,"":3," ":4,"ab":5,"ba":6}"#,
        r#"[{"a":1},{"a":1}]"#,
        r#""\\u0000 \\ud800 \u0001 \ud83d\ude00 \"""#,
        r#"{"\ud83d\ude00":"\uD83D\uDE00","\\u0000":"{[,:]}\""}"#,
        r#"["\ufffe\uffff￿"]"#,
        "[1e131071, 18446744073709551616, 0.1000]",
        r#"[true,false,null,"x",[],{}]"#,
    ] {
        assert_eq!(check(text), Ok(()), "{text}");
    }
}

#[test]
fn reasons_name_the_place() {
    let nul = "holds \\u0000, which PostgreSQL cannot store";
    let lone = "which is no character and PostgreSQL cannot store";
    for (text, want) in [
        (r#""\u0000""#, format!("payload {nul}")),
        (r#"{"user":{"id":1,"name":"a\u0000"}}"#, format!("payload.user.name {nul}")),
        (r#"{"a b":["x",["\u0000"]]}"#, format!("payload[\"a b\"][1][0] {nul}")),
        (r#"{"":["\u0000"]}"#, format!("payload[\"\"][0] {nul}")),
        (r#"[{"ok":1},{"no\u0000":1}]"#, format!("a key of payload[1] {nul}")),
        (r#"{"\u0000":1}"#, format!("a key of payload {nul}")),
        (r#"{"a":{"b":[]},"c":"\u0000"}"#, format!("payload.c {nul}")),
        (r#"["\\\u0000"]"#, format!("payload[0] {nul}")),
        (r#"["\uD83D"]"#, format!("payload[0] holds the lone surrogate \\ud83d, {lone}")),
        (r#"["\ude00\ud83d"]"#, format!("payload[0] holds the lone surrogate \\ude00, {lone}")),
        (r#"["\ud83d\\ude00"]"#, format!("payload[0] holds the lone surrogate \\ud83d, {lone}")),
        (r#"[{"\ud83d":1}]"#, format!("a key of payload[0] holds the lone surrogate \\ud83d, {lone}")),
        (r#"{"a":1,"b":{},"a":2}"#, "payload has the key \"a\" more than once, of which jsonb keeps only the last".into()),
        (r#"{"x":[0,{"a":1,"\u0061":2}]}"#, "payload.x[1] has the key \"\\u0061\" more than once, of which jsonb keeps only the last".into()),
        (r#"{"":1,"":2}"#, "payload has the key \"\" more than once, of which jsonb keeps only the last".into()),
        (r#"{"amount":1e131072}"#, "payload.amount is the number 1e131072, which has more than 131072 digits before the decimal point: PostgreSQL cannot store it exactly".into()),
        (r"[-1E-16384]", "payload[0] is the number -1E-16384, which has more than 16383 digits after the decimal point: PostgreSQL cannot store it exactly".into()),
    ] {
        assert_eq!(reason(text), want, "{text}");
    }
}

#[test]
fn a_screen_is_as_new_after_a_refusal() {
    let mut screen = Screen::default();
    for _ in 0..2 {
        assert!(screen.check(r#"[{"a":{"b":"\u0000"}}]"#, "payload").is_err());
        assert!(screen.check(r#"{"a":1,"b":{"a":1}}"#, "payload").is_ok());
        assert!(screen.check(r#"{"a":{"a":1,"a":2}}"#, "payload").is_err());
    }
}

#[test]
fn repeated_keys_are_found_among_few_and_many() {
    for count in [2_usize, 3, 23, 24, 25, 26, 100, 1000] {
        for prefix in ["", "a-common-prefix-"] {
            let suffix = if prefix.is_empty() { "" } else { "-a-common-suffix" };
            let mut keys: Vec<String> =
                (0..count).map(|n| format!("\"{prefix}{n}{suffix}\":{{\"in\":{n}}}")).collect();
            assert_eq!(check(&format!("{{{}}}", keys.join(","))), Ok(()), "{count}");
            keys.push(keys[count / 2].replacen(prefix, &prefix.replace('o', "\\u006F"), 1));
            let repeated = format!("{{\"outer\":{{{}}}}}", keys.join(","));
            assert!(reason(&repeated).starts_with("payload.outer has the key \""), "{count}");
        }
    }
}

#[test]
fn colliding_keys_cost_no_quadratic_time() {
    // Same length, same first and last eight bytes: every fingerprint is equal.
    let keys: Vec<String> = (0..50_000).map(|n| format!("\"prefix--{n:06}--suffix\":0")).collect();
    assert_eq!(check(&format!("{{{}}}", keys.join(","))), Ok(()));
}

#[test]
fn depth_is_limited_for_arrays_and_objects_alike() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":", "}]")] {
        let levels = open.matches(['[', '{']).count();
        let nested =
            |depth: usize| open.repeat(depth / levels) + "1" + &close.repeat(depth / levels);
        assert_eq!(check(&nested(MAX_DEPTH)), Ok(()));
        let reason = reason(&nested(MAX_DEPTH + levels));
        assert!(reason.ends_with("is nested deeper than 5000 levels"), "{reason}");
        assert!(reason.chars().count() < 300, "{reason}");
        assert!(check(&nested(2_000_000)).is_err());
    }
}

#[test]
fn numbers_that_explode_in_print_are_refused() {
    let many = |count: usize| format!("[{}]", vec!["1e131071"; count].join(","));
    assert_eq!(check(&many(100)), Ok(()));
    assert_eq!(
        reason(&many(10_000)),
        "payload has numbers that take 1310740000 bytes when PostgreSQL prints them, more than 16777216"
    );
}

#[test]
fn arrays_too_large_for_jsonb_are_refused() {
    let ones = |count: usize| format!("[{}1]", "1,".repeat(count - 1));
    assert_eq!(check(&ones(1 << 24)), Ok(()), "measured: PostgreSQL takes 16,777,216");
    assert_eq!(
        reason(&ones((1 << 24) + 1)),
        "payload has more than 16777216 members, the most that jsonb holds"
    );
}

#[test]
fn strings_too_large_for_jsonb_are_refused() {
    let text = format!("[\"{}\"]", "x".repeat(1 << 28));
    assert!(reason(&text).starts_with("payload[0] is a text of 268435456 bytes"));
    let half = "x".repeat(1 << 27);
    assert!(reason(&format!("[\"{half}\",\"{half}\"]")).starts_with("payload takes up to "));
}

/// What a text is, by another way: serde's own parser, recursion and `Vec`s.
fn oracle(text: &str) -> bool {
    match text.trim_start().as_bytes()[0] {
        b'{' => {
            let members: Members = serde_json::from_str(text).unwrap();
            let mut keys: Vec<&Vec<u8>> = members.0.iter().map(|(key, _)| key).collect();
            keys.sort();
            keys.windows(2).all(|pair| pair[0] != pair[1])
                && members.0.iter().all(|(key, value)| is_text(key) && oracle(value.get()))
        }
        b'[' => {
            let elements: Vec<&RawValue> = serde_json::from_str(text).unwrap();
            elements.iter().all(|element| oracle(element.get()))
        }
        b'"' => {
            let string: Wtf8 = serde_json::from_str(text).unwrap();
            is_text(&string.0)
        }
        b't' | b'f' | b'n' => true,
        _ => number_oracle(text),
    }
}

/// `serde_json` gives a lone surrogate to `deserialize_bytes` as WTF-8, which is not UTF-8.
fn is_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| !text.contains('\0'))
}

/// Writes the number out digit by digit and counts.
fn number_oracle(token: &str) -> bool {
    let token = token.trim_start_matches('-').to_lowercase();
    let (mantissa, exponent) = token.split_once('e').unwrap_or((&token, "0"));
    let exponent: i64 = exponent.parse().unwrap();
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let (mut integer, mut fraction) = (integer.to_owned(), fraction.to_owned());
    for _ in 0..exponent {
        integer.push(if fraction.is_empty() { '0' } else { fraction.remove(0) });
    }
    for _ in exponent..0 {
        fraction.insert(0, integer.pop().unwrap_or('0'));
    }
    fraction.len() <= 16_383 && integer.trim_start_matches('0').len() <= 131_072
}

struct Wtf8(Vec<u8>);

struct Members<'a>(Vec<(Vec<u8>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Wtf8 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;
        impl Visitor<'_> for BytesVisitor {
            type Value = Wtf8;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Wtf8, E> {
                Ok(Wtf8(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(BytesVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapVisitor;
        impl<'de> Visitor<'de> for MapVisitor {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Members<'de>, M::Error> {
                let mut members = Vec::new();
                while let Some(key) = map.next_key::<Wtf8>()? {
                    members.push((key.0, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MapVisitor)
    }
}

fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        30 => "[a-c]",
        6 => "[ -!#-\\[\\]-~é😀]",
        2 => prop::sample::select(vec![r"\n", r"\\", r#"\""#, r"\u0061", r"\u00e9", r"\ud83d\ude00"])
            .prop_map(String::from),
        1 => prop::sample::select(vec![r"\u0000", r"\ud83d", r"\ude00", r"\uD83D", r"\\u0000"])
            .prop_map(String::from),
    ]
}

fn string() -> impl Strategy<Value = String> {
    prop::collection::vec(piece(), 0..5).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

fn number() -> impl Strategy<Value = String> {
    let exponent = prop_oneof![
        8 => Just(String::new()),
        4 => "[eE][+-]?[0-9]{1,3}",
        1 => (131_065..131_080_i32).prop_map(|e| format!("e{e}")),
        1 => (16_375..16_390_i32).prop_map(|e| format!("e-{e}")),
    ];
    ("-?(0|[1-9][0-9]{0,8})", "(\\.[0-9]{1,9})?", exponent)
        .prop_map(|(integer, fraction, exponent)| integer + &fraction + &exponent)
}

/// JSON texts, some of which `jsonb` cannot hold.
pub(crate) fn json_text() -> impl Strategy<Value = String> {
    let space = || "[ \n]?";
    let leaf = prop_oneof![
        string(),
        number(),
        prop::sample::select(vec!["null", "true", "false"]).prop_map(String::from),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        let element = (space(), inner.clone(), space()).prop_map(|(a, value, b)| a + &value + &b);
        let member = (string(), space(), element.clone())
            .prop_map(|(key, space, value)| format!("{key}{space}:{value}"));
        prop_oneof![
            prop::collection::vec(element, 0..6).prop_map(|all| format!("[{}]", all.join(","))),
            prop::collection::vec(member, 0..6).prop_map(|all| format!("{{{}}}", all.join(","))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_screen_agrees_with_the_oracle(text in json_text()) {
        prop_assert_eq!(check(&text).is_ok(), oracle(&text), "{}", text);
    }

    #[test]
    fn numbers_agree_with_the_oracle(token in number()) {
        prop_assert_eq!(check_number(&token).is_ok(), number_oracle(&token), "{}", token);
    }

    #[test]
    fn many_keys_agree_with_the_oracle(keys in prop::collection::vec(string(), 0..60)) {
        let text = format!("{{{}}}", keys.iter().map(|key| format!("{key}:0")).collect::<Vec<_>>().join(","));
        prop_assert_eq!(check(&text).is_ok(), oracle(&text), "{}", text);
    }
}
