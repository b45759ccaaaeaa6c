//! Text: escapes, code points that are no characters, bytes that are no UTF-8.

use super::corpus::{Row, aside, no_json, stored};

const STORED: &[(&str, &str)] = &[
    ("empty", r#""""#),
    ("every short escape", r#""\"\\\/\b\f\n\r\t""#),
    ("escaped letters", r#""\u0041\u00e9\u20AC\uD83D\uDE00""#),
    ("all controls escaped", r#""\u0001\u0002\u0007\u000b\u000e\u001b\u001f""#),
    ("DEL and C1", "\"\u{7f}\u{80}\u{85}\u{9f}\""),
    ("no-break and zero width", "\"\u{a0}\u{200b}\u{200d}\u{2060}\u{feff}\""),
    ("line separators", "\"\u{2028}\u{2029}\""),
    ("combining, composed or not", "\"\u{e9} e\u{301} \u{1100}\u{1161}\u{11a8} \u{ac01}\""),
    ("many combining marks", "\"Z\u{351}\u{36b}\u{343}\u{36a}\u{302}\u{36b}\u{33d}\u{34f}\""),
    ("right to left", "\"\u{202e}gpj.exe\u{202c} \u{2066}x\u{2069} שלום العربية\""),
    ("emoji by joiner", "\"👩‍👩‍👧‍👦🏳️‍🌈\""),
    ("last code point", "\"\u{10ffff}\""),
    ("last code point, escaped", r#""\udbff\udfff""#),
    ("first above the plane", r#""\ud800\udc00""#),
    ("noncharacters", "\"\u{fffe}\u{ffff}\u{fdd0}\u{1fffe}\""),
    ("noncharacters, escaped", r#""\ufffe\uffff\ufdd0""#),
    ("private use", "\"\u{e000}\u{f8ff}\u{100000}\""),
    ("replacement", "\"\u{fffd}\""),
    ("a mark that is text", "\"\u{feff}x\""),
    ("backslash before an escape", r#""\\u0000 \\ud800""#),
    ("backslashes at the end", r#""\\\\""#),
    ("quote after a backslash", r#""\\\"""#),
    ("looks like JSON", r#""{\"id\":7,\"n\":[1]}""#),
    ("looks like SQL", r#""'; drop table eventloader.events; --""#),
    ("looks like a parameter", r#""$1 %s {} ${HOME} \u0025n""#),
    ("looks like COPY", r#""\\N\t\\.\n""#),
    ("looks like an array", r#""{a,\"b\",NULL}""#),
    ("looks like a number", r#""007""#),
    ("looks like NaN", r#""NaN""#),
    ("markup", r#""<script>alert(1)</script>&amp;<!--""#),
    ("terminal codes", r#""\u001b[2J\u001b]0;x\u0007\r""#),
    ("case that grows", "\"ß ŉ İ ﬃ\""),
];

const ASIDE: &[(&str, &str, &str)] = &[
    ("NUL", r#""\u0000""#, "payload.n holds \\u0000"),
    ("NUL inside", r#""a\u0000b""#, "payload.n holds \\u0000"),
    ("NUL after a backslash", r#""\\\u0000""#, "payload.n holds \\u0000"),
    ("NUL in a list", r#"["x",["\u0000"]]"#, "payload.n[1][0] holds \\u0000"),
    ("high half alone", r#""\ud83d""#, "the lone surrogate \\ud83d"),
    ("low half alone", r#""\ude00""#, "the lone surrogate \\ude00"),
    ("halves the wrong way", r#""\ude00\ud83d""#, "the lone surrogate \\ude00"),
    ("two high halves", r#""\ud83d\ud83d""#, "the lone surrogate \\ud83d"),
    ("high half and a letter", r#""\ud83dx""#, "the lone surrogate \\ud83d"),
    ("high half and an escape", r#""\ud83d\n""#, "the lone surrogate \\ud83d"),
    ("halves with a backslash between", r#""\ud83d\\ude00""#, "the lone surrogate \\ud83d"),
    ("a pair and a half", r#""\ud83d\ude00\ud83d""#, "the lone surrogate \\ud83d"),
    ("last high half", r#""\udbff""#, "the lone surrogate \\udbff"),
    ("last low half", r#""\udfff""#, "the lone surrogate \\udfff"),
];

const NO_JSON: &[(&str, &[u8])] = &[
    ("raw NUL", b"\"a\0b\""),
    ("raw tab", b"\"a\tb\""),
    ("raw carriage return", b"\"a\rb\""),
    ("raw escape", b"\"\x1b[2J\""),
    ("no such escape", br#""\x41""#),
    ("escape cut short", br#""\u00""#),
    ("escape of no digits", br#""\u00g0""#),
    ("escape with a sign", br#""\u+041""#),
    ("escape in braces", br#""\u{41}""#),
    ("string without an end", b"\"abc"),
    ("single quotes", b"'abc'"),
    ("no quotes", b"abc"),
    ("byte 0xff", b"\"\xff\""),
    ("byte 0xfe", b"\"\xfe\""),
    ("continuation alone", b"\"\x80\""),
    ("Latin-1", b"\"caf\xe9\""),
    ("overlong NUL", b"\"\xc0\x80\""),
    ("overlong slash", b"\"\xc0\xaf\""),
    ("overlong in three", b"\"\xe0\x80\xaf\""),
    ("surrogate in UTF-8", b"\"\xed\xa0\x80\""),
    ("pair of surrogates in UTF-8", b"\"\xed\xa0\xbd\xed\xb8\x80\""),
    ("above the last code point", b"\"\xf4\x90\x80\x80\""),
    ("five bytes", b"\"\xf8\x88\x80\x80\x80\""),
    ("cut short in three", b"\"\xe2\x82\""),
    ("cut short in four", b"\"\xf0\x9f\x98\""),
    ("UTF-16", b"\"\0a\0b\""),
    ("a mark between tokens", b"\xef\xbb\xbf1"),
    ("no-break space between tokens", b"\xc2\xa01"),
    ("form feed between tokens", b"\x0c1"),
];

pub(super) fn text() -> Vec<Row> {
    let mut rows: Vec<Row> = STORED.iter().map(|(name, raw)| stored(name, *raw)).collect();
    rows.extend(ASIDE.iter().map(|(name, raw, reason)| aside(name, *raw, reason)));
    rows.extend(NO_JSON.iter().map(|(name, raw)| no_json(name, *raw)));
    rows
}
