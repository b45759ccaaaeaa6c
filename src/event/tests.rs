use super::*;

#[test]
fn texts_are_kept_as_they_are() {
    for (name, text, want) in [
        ("beyond u64", "18446744073709551616", "18446744073709551616"),
        ("minus zero", "-0", "-0"),
        ("large exponent", "1e400", "1e400"),
        ("decimals", "0.10000000000000000001", "0.10000000000000000001"),
        ("inner space", " {\"b\" : 1,\n\"a\":[ ]} \r\n", "{\"b\" : 1,\n\"a\":[ ]}"),
        ("byte order mark", "\u{feff}[1]", "[1]"),
        ("escapes", r#""\u0000\ud800\u0041""#, r#""\u0000\ud800\u0041""#),
    ] {
        assert_eq!(JsonText::parse(text).unwrap().as_str(), want, "{name}");
    }
}

#[test]
fn parsing_does_not_copy() {
    let body = Bytes::from_static(b"  {\"a\": 1}  ");
    let text = JsonText::parse(body.clone()).unwrap();
    assert_eq!(text.as_bytes().as_ptr(), body[2..].as_ptr());
}

#[test]
fn texts_that_are_not_json_are_refused() {
    for text in [&b""[..], b" ", b"{", b"[1,]", b"01", b"1 2", b"nul", b"\"\x01\"", b"\"\\x\""] {
        assert!(matches!(JsonText::parse(text), Err(JsonTextError::NotJson(_))), "{text:?}");
    }
    let latin1 = JsonText::parse(&b"\"caf\xe9\""[..]);
    assert!(matches!(latin1, Err(JsonTextError::NotUtf8(_))));
}

#[test]
fn any_depth_is_parsed_and_the_screen_decides() {
    let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert!(JsonText::parse(deep(5_000)).unwrap().screen().is_ok());
    assert!(JsonText::parse(deep(5_001)).unwrap().screen().is_err());
    assert!(JsonText::parse(deep(1_000_000)).unwrap().screen().is_err());
}

#[test]
fn texts_serialize_verbatim_and_hide_in_debug() {
    let text = JsonText::parse(r#"{"n": 1e400, "secret": "x"}"#).unwrap();
    assert_eq!(serde_json::to_string(&[&text]).unwrap(), format!("[{text}]"));
    assert_eq!(format!("{text:?}"), "JsonText(27 bytes)");
    let value = serde_json::json!({"a": [1, "\u{1}"]});
    assert_eq!(JsonText::from_value(&value).as_str(), r#"{"a":[1,"\u0001"]}"#);
}
