//! Walks over JSON text that is already known to be valid.
//!
//! Nothing here checks syntax: `serde_json` has done so once for the whole body. Everything is a
//! loop, never a recursion, so nesting costs no stack. On text that is not valid JSON the results
//! are meaningless, but nothing panics and every loop ends.

use std::borrow::Cow;
use std::fmt;

/// What a JSON value is, told by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

impl Kind {
    /// Tells the kind of `raw`, a JSON value with or without white space before it.
    pub(crate) fn of(raw: &str) -> Self {
        match raw.trim_ascii_start().as_bytes().first() {
            Some(b'{') => Self::Object,
            Some(b'[') => Self::Array,
            Some(b'"') => Self::String,
            Some(b't' | b'f') => Self::Bool,
            Some(b'-' | b'0'..=b'9') => Self::Number,
            _ => Self::Null,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "null",
            Self::Bool => "a boolean",
            Self::Number => "a number",
            Self::String => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
        })
    }
}

/// Why a JSON string is no text for Postgres.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TextFault {
    #[error("holds \\u0000, which PostgreSQL cannot store")]
    Nul,
    #[error(
        "holds the lone surrogate \\u{0:04x}, which is no character and PostgreSQL cannot store"
    )]
    LoneSurrogate(u32),
}

/// A key of an object as it is written, without its quotes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key<'a> {
    pub(crate) inside: &'a str,
    pub(crate) escaped: bool,
}

impl Key<'_> {
    /// Tells whether the decoded key equals `name`.
    pub(crate) fn is(&self, name: &str) -> bool {
        if self.escaped {
            code_points(self.inside).eq(name.chars().map(u32::from))
        } else {
            self.inside == name
        }
    }
}

/// A place in valid JSON text, moving forward only.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The next byte that is no white space, which is not consumed; `None` at the end.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\t' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    /// Passes the next value and returns its text, without the white space around it.
    pub(crate) fn value(&mut self) -> &'a str {
        let first = self.peek();
        let start = self.at;
        match first {
            Some(b'"') => self.pass_string(),
            Some(b'{' | b'[') => self.pass_container(),
            _ => self.pass_scalar(),
        }
        self.since(start)
    }

    /// Visits the elements of the array that comes next; `visit` must consume exactly one value.
    /// Stops at the first error.
    pub(crate) fn each_element<E>(
        &mut self,
        mut visit: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.peek() != Some(b'[') {
            return Ok(());
        }
        self.at += 1;
        loop {
            match self.peek() {
                None => return Ok(()),
                Some(b']') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b',') => self.at += 1,
                Some(_) => visit(self)?,
            }
        }
    }

    /// Visits the members of the object that comes next and returns the object's text.
    pub(crate) fn each_member(&mut self, mut visit: impl FnMut(Key<'a>, &'a str)) -> &'a str {
        if self.peek() != Some(b'{') {
            return self.value();
        }
        let start = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                None => break,
                Some(b'}') => {
                    self.at += 1;
                    break;
                }
                Some(b'"') => {
                    let key = self.key();
                    if self.peek() == Some(b':') {
                        self.at += 1;
                    }
                    visit(key, self.value());
                }
                Some(_) => self.at += 1,
            }
        }
        self.since(start)
    }

    fn key(&mut self) -> Key<'a> {
        let start = self.at + 1;
        let (end, escaped) = string_end(self.text.as_bytes(), start);
        self.at = end + 1;
        Key { inside: self.text.get(start..end).unwrap_or_default(), escaped }
    }

    fn pass_string(&mut self) {
        self.at = string_end(self.text.as_bytes(), self.at + 1).0 + 1;
    }

    fn pass_container(&mut self) {
        let bytes = self.text.as_bytes();
        let mut depth = 0_usize;
        while let Some(&byte) = bytes.get(self.at) {
            match byte {
                b'"' => {
                    self.pass_string();
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return;
            }
        }
    }

    fn pass_scalar(&mut self) {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let ends = |byte: &u8| matches!(byte, b',' | b']' | b'}' | b' ' | b'\n' | b'\t' | b'\r');
        let length = rest.iter().position(ends).unwrap_or(rest.len());
        // At least one byte, so that a caller's loop always ends.
        self.at += length.max(1);
    }

    fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }
}

/// Finds the closing quote of a string whose inside begins at `from`; tells whether there are
/// escapes in between.
pub(crate) fn string_end(bytes: &[u8], from: usize) -> (usize, bool) {
    let mut at = from;
    let mut escaped = false;
    loop {
        at = skip_plain(bytes, at);
        match bytes.get(at) {
            Some(b'"') => return (at, escaped),
            Some(b'\\') => {
                escaped = true;
                at += 2;
            }
            Some(_) => at += 1,
            None => return (bytes.len(), escaped),
        }
    }
}

/// Skips bytes that are neither quote nor backslash, eight at a time; may stop early near the end.
/// Most of a page is strings, so this is where its time goes.
fn skip_plain(bytes: &[u8], from: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // Marks the bytes of `word` that are zero; the lowest mark is always right.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let mut at = from;
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*chunk);
        let marks = zeros(word ^ (ONES * 0x22)) | zeros(word ^ (ONES * 0x5c));
        if marks != 0 {
            return at + (marks.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    at
}

/// The code points of the inside of a JSON string. A lone surrogate comes out as its own value,
/// so that strings which are no Unicode text can still be compared.
pub(crate) fn code_points(inside: &str) -> CodePoints<'_> {
    CodePoints { chars: inside.chars() }
}

pub(crate) struct CodePoints<'a> {
    chars: std::str::Chars<'a>,
}

impl Iterator for CodePoints<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let first = self.chars.next()?;
        if first != '\\' {
            return Some(first.into());
        }
        Some(match self.chars.next()? {
            'b' => 0x08,
            'f' => 0x0c,
            'n' => 0x0a,
            'r' => 0x0d,
            't' => 0x09,
            'u' => self.escaped_code_point(),
            itself => itself.into(),
        })
    }
}

impl CodePoints<'_> {
    /// Reads what follows `\u`, with the low half of a pair where there is one.
    fn escaped_code_point(&mut self) -> u32 {
        let unit = hex4(&mut self.chars);
        if !(0xd800..0xdc00).contains(&unit) {
            return unit;
        }
        let mut ahead = self.chars.clone();
        if ahead.next() != Some('\\') || ahead.next() != Some('u') {
            return unit;
        }
        let low = hex4(&mut ahead);
        if !(0xdc00..0xe000).contains(&low) {
            return unit;
        }
        self.chars = ahead;
        0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)
    }
}

fn hex4(chars: &mut std::str::Chars<'_>) -> u32 {
    chars.take(4).fold(0, |unit, digit| (unit << 4) | digit.to_digit(16).unwrap_or(0))
}

/// Decodes the inside of a JSON string into text that Postgres can hold; borrows when there is
/// nothing to decode.
pub(crate) fn decode(inside: &str) -> Result<Cow<'_, str>, TextFault> {
    if !inside.contains('\\') {
        // A raw NUL is no valid JSON, so only an escape can bring one.
        return Ok(Cow::Borrowed(inside));
    }
    let mut text = String::with_capacity(inside.len());
    for code in code_points(inside) {
        match char::from_u32(code) {
            Some('\0') => return Err(TextFault::Nul),
            Some(decoded) => text.push(decoded),
            None => return Err(TextFault::LoneSurrogate(code)),
        }
    }
    Ok(Cow::Owned(text))
}

/// The inside of `raw`, a JSON string with its quotes.
pub(crate) fn unquote(raw: &str) -> &str {
    raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_decode_as_serde_json_decodes_them() {
        for raw in [
            r#""""#,
            r#""plain""#,
            r#""a\"b\\c\/d\b\f\n\r\t""#,
            r#""\u0041\u00e4\u20AC\ud83d\uDE00 ü 😀""#,
            r#""\\u0000""#,
        ] {
            let want: String = serde_json::from_str(raw).unwrap();
            assert_eq!(decode(unquote(raw)).unwrap(), want, "{raw}");
        }
    }

    #[test]
    fn strings_that_are_no_text_are_told_apart() {
        for (inside, want) in [
            (r"a\u0000", TextFault::Nul),
            (r"\ud800", TextFault::LoneSurrogate(0xd800)),
            (r"\ud800x", TextFault::LoneSurrogate(0xd800)),
            (r"\ud800\n", TextFault::LoneSurrogate(0xd800)),
            (r"\ud800A", TextFault::LoneSurrogate(0xd800)),
            (r"\ud800\ud801\udc00", TextFault::LoneSurrogate(0xd800)),
            (r"\udc00\ud800", TextFault::LoneSurrogate(0xdc00)),
        ] {
            assert_eq!(decode(inside), Err(want), "{inside}");
        }
    }

    #[test]
    fn the_end_of_a_string_is_found_at_every_offset() {
        for length in 0..40 {
            for escape in 0..length {
                let mut inside = "é".repeat(length);
                assert_eq!(string_end(format!("{inside}\",\"").as_bytes(), 0), (2 * length, false));
                inside.replace_range(2 * escape..2 * escape + 2, "\\\"");
                assert_eq!(string_end(format!("{inside}\",\"").as_bytes(), 0), (2 * length, true));
                assert_eq!(string_end(inside.as_bytes(), 0).0, 2 * length);
            }
        }
    }

    #[test]
    fn members_come_with_key_and_text() {
        let text = " { \"a\" : [1, {\"x\":\"}\"}] ,\n\"\\u0062\":\"q\\\"\" , \"c\":-1.5e3} , 7";
        let mut seen = Vec::new();
        let mut walk = Walk::new(text);
        let object = walk.each_member(|key, value| seen.push((key.inside, key.escaped, value)));
        assert_eq!(object, text[1..].strip_suffix(" , 7").unwrap());
        assert_eq!(
            seen,
            [
                ("a", false, "[1, {\"x\":\"}\"}]"),
                ("\\u0062", true, "\"q\\\"\""),
                ("c", false, "-1.5e3")
            ]
        );
    }

    #[test]
    fn broken_text_neither_panics_nor_loops() {
        let text = "[{\"a\\u12:1,\"é\\\":[tru,{}}]\"\\";
        for start in (0..text.len()).filter(|at| text.is_char_boundary(*at)) {
            for end in (start..text.len()).filter(|at| text.is_char_boundary(*at)) {
                let part = &text[start..end];
                let mut count = 0;
                Walk::new(part)
                    .each_element(|walk| {
                        count += walk.each_member(|_, _| {}).len();
                        Ok::<_, ()>(())
                    })
                    .unwrap();
                Walk::new(part).each_member(|key, _| count += usize::from(key.is("a")));
                count += code_points(part).count();
                assert!(count < 100);
            }
        }
    }
}
