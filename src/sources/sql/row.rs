//! A row as one JSON object, and rows as a page.
//!
//! Text is written byte by byte: what is no UTF-8, or holds a NUL, makes its event a dead letter, not its page.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;

use crate::event::walk::{Kind, Walk, unquote};
use crate::event::{BadEvent, Item, valid_json};
use crate::mapping::{Mapping, check_order};
use crate::source::{FailureClass, Page, SourceError};

/// How much is kept of a row that is larger than a page may be, and of a page that is invalid.
const KEPT_OF_OVERSIZED: usize = 1 << 20;

/// Writes the members of one row, in the order of its columns.
#[derive(Debug)]
pub(super) struct RowWriter {
    json: Vec<u8>,
}

impl RowWriter {
    pub(super) fn new() -> Self {
        Self { json: vec![b'{'] }
    }

    fn key(&mut self, name: &str) {
        if self.json.len() > 1 {
            self.json.push(b',');
        }
        push_string(&mut self.json, name.as_bytes());
        self.json.push(b':');
    }

    pub(super) fn null(&mut self, name: &str) {
        self.raw(name, b"null");
    }

    /// `json` is valid JSON, and is kept as it is.
    pub(super) fn raw(&mut self, name: &str, json: &[u8]) {
        self.key(name);
        self.json.extend_from_slice(json);
    }

    pub(super) fn number(&mut self, name: &str, number: impl std::fmt::Display) {
        self.raw(name, number.to_string().as_bytes());
    }

    /// The shortest digits that give the same number again; JSON has no word for what is none.
    pub(super) fn float(&mut self, name: &str, number: f64) {
        match number {
            f64::INFINITY => self.text(name, b"Infinity"),
            f64::NEG_INFINITY => self.text(name, b"-Infinity"),
            _ if number.is_nan() => self.text(name, b"NaN"),
            _ => self.raw(name, format!("{number:?}").as_bytes()),
        }
    }

    pub(super) fn text(&mut self, name: &str, text: &[u8]) {
        self.key(name);
        push_string(&mut self.json, text);
    }

    pub(super) fn binary(&mut self, name: &str, bytes: &[u8]) {
        self.text(name, BASE64.encode(bytes).as_bytes());
    }

    /// JSON that is kept as it is where it is valid, and text where it is not.
    pub(super) fn json(&mut self, name: &str, text: &[u8]) {
        match json_value(text) {
            Some(value) => self.raw(name, value.as_bytes()),
            None => self.text(name, text),
        }
    }

    /// Text that may be the payload: an object or an array is taken as JSON, everything else as text.
    pub(super) fn payload(&mut self, name: &str, text: &[u8]) {
        match json_value(text) {
            Some(value) if matches!(Kind::of(value), Kind::Object | Kind::Array) => {
                self.raw(name, value.as_bytes());
            }
            _ => self.text(name, text),
        }
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.json.push(b'}');
        self.json
    }
}

fn json_value(text: &[u8]) -> Option<&str> {
    valid_json(std::str::from_utf8(text).ok()?).ok()
}

fn push_string(json: &mut Vec<u8>, text: &[u8]) {
    json.push(b'"');
    for byte in text {
        match byte {
            b'"' | b'\\' => json.extend([b'\\', *byte]),
            b'\n' => json.extend(b"\\n"),
            b'\r' => json.extend(b"\\r"),
            b'\t' => json.extend(b"\\t"),
            0..=0x1f => json.extend(format!("\\u{byte:04x}").as_bytes()),
            _ => json.push(*byte),
        }
    }
    json.push(b'"');
}

/// The object `row` with the members of these names, which `PostgreSQL` wrote as `"\\x…"`, in base64.
pub(super) fn with_base64(row: String, binary: &[String]) -> Vec<u8> {
    if binary.is_empty() {
        return row.into_bytes();
    }
    let mut changed = RowWriter::new();
    Walk::new(&row).each_member(|key, value| {
        let bytes = binary.iter().any(|name| key.is(name)).then(|| hex_bytes(value)).flatten();
        if changed.json.len() > 1 {
            changed.json.push(b',');
        }
        changed.json.extend(format!("\"{}\":", key.inside).as_bytes());
        match bytes {
            Some(bytes) => push_string(&mut changed.json, BASE64.encode(bytes).as_bytes()),
            None => changed.json.extend(value.as_bytes()),
        }
    });
    changed.finish()
}

/// The bytes of `"\\x616263"`; `None` for null.
fn hex_bytes(value: &str) -> Option<Vec<u8>> {
    let digits = unquote(value).strip_prefix("\\\\x")?.as_bytes();
    let digit = |byte: u8| (byte as char).to_digit(16);
    digits
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
            _ => None,
        })
        .collect()
}

/// Collects the rows of one page.
#[derive(Debug)]
pub(super) struct PageBuilder<'m> {
    mapping: &'m Mapping,
    max_page_bytes: usize,
    bytes: usize,
    items: Vec<Item>,
    /// The beginning of the rows, kept for the case that the page is invalid.
    rows: Vec<Bytes>,
}

impl<'m> PageBuilder<'m> {
    pub(super) fn new(mapping: &'m Mapping, max_page_bytes: usize) -> Self {
        Self { mapping, max_page_bytes, bytes: 0, items: Vec::new(), rows: Vec::new() }
    }

    /// Adds a row. False: the page is full, and the row is not in it.
    pub(super) fn push(&mut self, id: i64, row: Vec<u8>) -> bool {
        let length = row.len();
        if !self.items.is_empty() && self.bytes + length > self.max_page_bytes {
            return false;
        }
        let row = Bytes::from(row);
        self.items.push(if length > self.max_page_bytes {
            self.oversized(id, &row)
        } else {
            self.mapping.item_with_id(&row, id)
        });
        if self.bytes < KEPT_OF_OVERSIZED {
            self.rows.push(row);
        }
        self.bytes += length;
        true
    }

    fn oversized(&self, id: i64, row: &Bytes) -> Item {
        let max = self.max_page_bytes;
        Item::Bad(BadEvent {
            id: Some(id),
            reference: id.to_string(),
            body: row.slice(..row.len().min(KEPT_OF_OVERSIZED)),
            reason: format!(
                "the row is {} bytes, over max_page_bytes = {max}; its beginning is kept",
                row.len()
            ),
            payload_at: self.mapping.payload.to_string(),
            event_type: None,
            occurred_at: None,
            message_id: None,
            metadata: None,
        })
    }

    pub(super) fn row_count(&self) -> usize {
        self.items.len()
    }

    /// The page, checked for order.
    pub(super) fn finish(self, after_id: i64, limit: u32) -> Result<Page, SourceError> {
        let ids = self.items.iter().filter_map(Item::id);
        check_order(ids, after_id, limit as usize).map_err(|error| {
            let mut body = self.rows.join(&b'\n');
            body.truncate(KEPT_OF_OVERSIZED);
            SourceError::invalid_page(&error, body.into())
        })?;
        Ok(Page::new(self.items))
    }
}

/// An id that is no integer, or null.
pub(super) fn no_id(column: &str, found: &str) -> SourceError {
    SourceError::new(
        FailureClass::InvalidPage,
        format!("invalid page: the id column `{column}` holds {found}, expected an integer"),
    )
}

/// An id beyond bigint, and nothing else is left to be read.
pub(super) fn beyond_bigint(column: &str, id: u64) -> SourceError {
    SourceError::new(
        FailureClass::Rejected,
        format!(
            "the id {id} in `{column}` is beyond bigint (at most {}), which ids have to fit in; \
             read the table through a query that gives other ids",
            i64::MAX
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_json() {
        let mut row = RowWriter::new();
        row.null("a");
        row.number("b\"", u64::MAX);
        row.float("c", -0.1);
        row.float("d", 5e-324);
        row.float("e", f64::INFINITY);
        row.text("f", "ä\"\\\n\u{1}".as_bytes());
        row.binary("g", &[0, 255, 16]);
        row.json("h", b" {\"x\": 1.10} ");
        row.json("i", b"{");
        row.payload("j", b"[1]");
        row.payload("k", b"1");
        let want = r#"{"a":null,"b\"":18446744073709551615,"c":-0.1,"d":5e-324,"e":"Infinity","f":"ä\"\\\n\u0001","g":"AP8Q","h":{"x": 1.10},"i":"{","j":[1],"k":"1"}"#;
        assert_eq!(String::from_utf8(row.finish()).unwrap(), want);
    }

    #[test]
    fn bytes_of_the_named_members_become_base64() {
        let row = r#"{"id": 1, "b":"\\x00ff10", "c":"\\x00", "d":null,"e":{"b":"\\x00"}}"#;
        let changed = with_base64(row.to_owned(), &["b".to_owned(), "d".to_owned()]);
        let want = r#"{"id":1,"b":"AP8Q","c":"\\x00","d":null,"e":{"b":"\\x00"}}"#;
        assert_eq!(String::from_utf8(changed).unwrap(), want);
        assert_eq!(with_base64(row.to_owned(), &[]), row.as_bytes());
    }

    #[test]
    fn a_page_ends_before_it_is_too_large_and_has_at_least_one_row() {
        let mapping = Mapping::default();
        let mut page = PageBuilder::new(&mapping, 20);
        assert!(page.push(1, br#"{"a":"0123456789"}"#.to_vec()));
        assert!(!page.push(2, b"{\"b\":1}".to_vec()));
        assert_eq!(page.finish(0, 10).unwrap().items.len(), 1);
        let mut page = PageBuilder::new(&mapping, 20);
        assert!(page.push(1, [b"{\"a\":\"".as_slice(), &[b'x'; 50], b"\"}"].concat()));
        let page = page.finish(0, 10).unwrap();
        assert!(matches!(&page.items[..], [Item::Bad(bad)] if bad.reason.contains("58 bytes")));
    }

    #[test]
    fn what_is_no_utf8_is_a_bad_event() {
        let mapping = Mapping::default();
        let mut page = PageBuilder::new(&mapping, 1000);
        page.push(1, b"{\"a\":\"\xff\"}".to_vec());
        page.push(2, b"{\"a\":\"b\"}".to_vec());
        let page = page.finish(0, 10).unwrap();
        assert!(matches!(&page.items[..], [Item::Bad(_), Item::Good(_)]));
    }

    #[test]
    fn ids_out_of_order_make_the_page_invalid() {
        let mapping = Mapping::default();
        let mut page = PageBuilder::new(&mapping, 1000);
        page.push(2, b"{}".to_vec());
        page.push(2, b"{}".to_vec());
        let error = page.finish(0, 10).unwrap_err();
        assert_eq!(error.class, FailureClass::InvalidPage);
        assert_eq!(error.page.as_deref(), Some(b"{}\n{}".as_slice()));
    }
}
