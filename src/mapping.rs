//! Turns the body of a page, or one line of a file, into events.
//!
//! A page is judged as a whole first ([`PageError`]: nothing of it can be trusted), then event by
//! event ([`BadEvent`]: its neighbours go on). The body is checked once for syntax, walked once for
//! the members that the pointers name, and each payload is screened once for what Postgres can
//! hold; nothing is copied. Start reading at [`Mapping::items_of_page`].

use bytes::Bytes;

use crate::event::walk::{Kind, Walk};
use crate::event::{BadEvent, Event, Item, JsonText, Screen, valid_json};

mod fields;
pub mod message;
mod page_error;
mod pointer;
mod time;

pub use fields::MAX_EVENT_TYPE_BYTES;
pub use page_error::PageError;
pub use pointer::{Pointer, PointerError};
pub(crate) use time::parse_time;

/// Where the parts of an event stand in what a source answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// From the body of a page to the array of items. Default: the body.
    pub items: Pointer,
    /// From an item to its id. Default: `/id`.
    pub id: Pointer,
    /// From an item to its type. Default: none, the source name is used.
    pub event_type: Option<Pointer>,
    /// From an item to when it occurred. Default: none.
    pub occurred_at: Option<Pointer>,
    /// From an item to its UUID. Default: none.
    pub message_id: Option<Pointer>,
    /// From an item to what is stored of it. Default: the whole item.
    pub payload: Pointer,
    /// Longest item, in bytes of its JSON text. Default: 1 MiB.
    pub max_event_bytes: usize,
}

impl Default for Mapping {
    fn default() -> Self {
        Self {
            items: Pointer::whole(),
            id: Pointer::to_key("id"),
            event_type: None,
            occurred_at: None,
            message_id: None,
            payload: Pointer::whole(),
            max_event_bytes: 1 << 20,
        }
    }
}

impl Mapping {
    /// Reads all items of a page. Their order is for [`check_order`] to judge.
    ///
    /// # Errors
    /// When the page is not JSON, has no array where `items` points, or has an item that is no
    /// object or has no usable id. Then no event of it can be taken.
    pub fn items_of_page(&self, body: &Bytes) -> Result<Vec<Item>, PageError> {
        let document = read_document(body)?;
        let Some(array) = self.items.find(document) else {
            return Err(PageError::items_missing(&self.items, document));
        };
        if Kind::of(array) != Kind::Array {
            return Err(PageError::items_not_array(&self.items, document, array));
        }
        let mut reader = ItemReader::new(self);
        let mut items = Vec::new();
        Walk::new(array).each_element(|walk| {
            let parts = reader.walk_item(walk, items.len())?;
            let id = self.id_of(&parts, items.len())?;
            items.push(reader.judge(body, None, &parts, id));
            Ok(())
        })?;
        Ok(items)
    }

    /// Reads a page that is one item a line, as newline-delimited JSON has it. Empty lines are passed over.
    ///
    /// # Errors
    /// As [`Mapping::items_of_page`]: a line that is no item makes the page invalid.
    pub fn items_of_lines(&self, body: &Bytes) -> Result<Vec<Item>, PageError> {
        let text = std::str::from_utf8(body).map_err(|error| PageError::not_utf8(body, error))?;
        let mut reader = ItemReader::new(self);
        let mut items = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            let item = valid_json(line).map_err(|e| PageError::not_json(line, &e).below(number))?;
            let parts = reader.walk_item(&mut Walk::new(item), items.len())?;
            let id = self.id_of(&parts, items.len())?;
            items.push(reader.judge(body, None, &parts, id));
        }
        Ok(items)
    }

    /// Reads one item: a line of a file, or the body of a dead letter that is to be replayed. What
    /// is not JSON is a [`BadEvent`] without an id, so that one broken line does not hold a file.
    ///
    /// # Errors
    /// When the item is JSON but no object, or has no usable id. Its index in the error is 0.
    pub fn item(&self, raw: &Bytes) -> Result<Item, PageError> {
        let text = match read_document(raw) {
            Ok(text) => text,
            Err(error) => return Ok(Item::Bad(self.not_json(raw, None, &error))),
        };
        let mut reader = ItemReader::new(self);
        let parts = reader.walk_item(&mut Walk::new(text), 0)?;
        let id = self.id_of(&parts, 0)?;
        Ok(reader.judge(raw, Some(raw), &parts, id))
    }

    /// Reads one item whose id is known from elsewhere, such as the offset in a stream or file; the
    /// `id` pointer is not used, and the item may be any JSON value.
    pub fn item_with_id(&self, raw: &Bytes, id: i64) -> Item {
        let text = match read_document(raw) {
            Ok(text) => text,
            Err(error) => return Item::Bad(self.not_json(raw, Some(id), &error)),
        };
        let mut reader = ItemReader::new(self);
        let parts = reader.walk_value(&mut Walk::new(text));
        reader.judge(raw, Some(raw), &parts, id)
    }

    /// The id of one item, if [`Mapping::item`] would find one. Cheaper, because the rest is not looked at.
    pub(crate) fn id_of_item(&self, raw: &[u8]) -> Option<i64> {
        let text = valid_json(std::str::from_utf8(raw).ok()?).ok()?;
        let parts = ItemReader::new(self).walk_item(&mut Walk::new(text), 0).ok()?;
        self.id_of(&parts, 0).ok()
    }

    fn id_of(&self, parts: &Parts<'_>, index: usize) -> Result<i64, PageError> {
        match parts.found(Part::Id) {
            Some(raw) => fields::parse_id(raw, &self.id, index),
            None => Err(PageError::id_missing(index, &self.id, parts.item)),
        }
    }

    fn not_json(&self, raw: &Bytes, id: Option<i64>, error: &PageError) -> BadEvent {
        BadEvent {
            id,
            reference: id.map(|id| id.to_string()).unwrap_or_default(),
            body: raw.clone(),
            reason: error.to_string(),
            payload_at: self.payload.to_string(),
            event_type: None,
            occurred_at: None,
            message_id: None,
            metadata: None,
        }
    }
}

/// Checks that ids increase strictly, begin above `after_id` and are at most `limit` in number.
/// `after_id` is exclusive, as in the window that was asked for.
///
/// # Errors
/// Too many ids first, else the first id out of order.
pub fn check_order(
    ids: impl IntoIterator<Item = i64>,
    after_id: i64,
    limit: usize,
) -> Result<(), PageError> {
    let mut event_count = 0;
    let mut previous = after_id;
    let mut disorder = None;
    for (index, id) in ids.into_iter().enumerate() {
        event_count = index + 1;
        if id <= previous && disorder.is_none() {
            disorder = Some(if id <= after_id {
                PageError::IdBehind { index, id, after_id }
            } else if id == previous {
                PageError::IdRepeated { index, id }
            } else {
                PageError::IdNotIncreasing { index, id, previous }
            });
        }
        previous = id;
    }
    if event_count > limit {
        return Err(PageError::TooManyEvents { event_count, limit });
    }
    disorder.map_or(Ok(()), Err)
}

/// Checks `body` for UTF-8 and JSON syntax and returns its value.
fn read_document(body: &Bytes) -> Result<&str, PageError> {
    let text = std::str::from_utf8(body).map_err(|error| PageError::not_utf8(body, error))?;
    valid_json(text).map_err(|error| PageError::not_json(text, &error))
}

/// What the pointers of a mapping lead to.
#[derive(Debug, Clone, Copy)]
enum Part {
    Id,
    EventType,
    OccurredAt,
    MessageId,
    Payload,
}

const PART_COUNT: usize = 5;

/// An item and the texts of its parts, in the order of [`Part`].
struct Parts<'a> {
    item: &'a str,
    found: [Option<&'a str>; PART_COUNT],
}

impl<'a> Parts<'a> {
    fn found(&self, part: Part) -> Option<&'a str> {
        self.found[part as usize]
    }
}

/// Reads items one after the other, with buffers that are kept.
struct ItemReader<'m> {
    mapping: &'m Mapping,
    /// In the order of [`Part`].
    pointers: [Option<&'m Pointer>; PART_COUNT],
    screen: Screen,
}

impl<'m> ItemReader<'m> {
    fn new(mapping: &'m Mapping) -> Self {
        let pointers = [
            Some(&mapping.id),
            mapping.event_type.as_ref(),
            mapping.occurred_at.as_ref(),
            mapping.message_id.as_ref(),
            Some(&mapping.payload),
        ];
        Self { mapping, pointers, screen: Screen::default() }
    }

    /// Passes the next value, which must be an object, and finds its parts.
    fn walk_item<'a>(&self, walk: &mut Walk<'a>, index: usize) -> Result<Parts<'a>, PageError> {
        if walk.peek() == Some(b'{') {
            return Ok(self.walk_value(walk));
        }
        let found = page_error::describe(walk.value());
        Err(PageError::ItemNotObject { index, found })
    }

    /// Passes the next value and finds its parts; for an object, in one pass over its members.
    fn walk_value<'a>(&self, walk: &mut Walk<'a>) -> Parts<'a> {
        let firsts = self.pointers.map(|pointer| pointer.and_then(Pointer::split_first));
        let is_object = walk.peek() == Some(b'{');
        let mut found = [None; PART_COUNT];
        let item = walk.each_member(|key, value| {
            for (first, found) in firsts.iter().zip(&mut found) {
                if first.is_some_and(|(name, _)| key.is(name)) {
                    *found = Some(value);
                }
            }
        });
        for ((pointer, first), found) in self.pointers.iter().zip(firsts).zip(&mut found) {
            *found = match first {
                None => pointer.map(|_| item),
                Some((_, [])) if is_object => *found,
                Some((_, rest)) if is_object => {
                    found.and_then(|member| pointer::find_segments(member, rest))
                }
                // An array, perhaps, that the pointer leads through.
                Some(_) => pointer.and_then(|pointer| pointer.find(item)),
            };
        }
        Parts { item, found }
    }

    /// Makes an event of an item with a known id, good or bad. `whole` is what a bad event keeps;
    /// `None`: the item's own text.
    fn judge(&mut self, body: &Bytes, whole: Option<&Bytes>, parts: &Parts<'_>, id: i64) -> Item {
        let (payload, payload_fault) = match self.payload_of(body, parts) {
            Ok(payload) => (Some(payload), None),
            Err(reason) => (None, Some(reason)),
        };
        let mut faults = Faults { reader: self, parts, reason: payload_fault };
        let event_type = faults.read(Part::EventType, "event_type", fields::parse_event_type);
        let occurred_at = faults.read(Part::OccurredAt, "occurred_at", time::parse_occurred_at);
        let message_id = faults.read(Part::MessageId, "message_id", fields::parse_message_id);
        match (payload, faults.reason) {
            (Some(payload), None) => Item::Good(Event {
                id,
                event_type,
                payload,
                occurred_at,
                message_id,
                metadata: None,
            }),
            (_, reason) => Item::Bad(BadEvent {
                id: Some(id),
                reference: id.to_string(),
                body: whole.map_or_else(|| body.slice_ref(parts.item.as_bytes()), Bytes::clone),
                reason: reason.unwrap_or_default(),
                payload_at: self.mapping.payload.to_string(),
                event_type,
                occurred_at,
                message_id,
                metadata: None,
            }),
        }
    }

    fn payload_of(&mut self, body: &Bytes, parts: &Parts<'_>) -> Result<JsonText, String> {
        let (length, length_max) = (parts.item.len(), self.mapping.max_event_bytes);
        if length > length_max {
            return Err(format!(
                "the event is {length} bytes, over max_event_bytes = {length_max}"
            ));
        }
        let Some(payload) = parts.found(Part::Payload) else {
            return Err(self.named("payload", Part::Payload, "finds nothing in the event"));
        };
        self.screen.check(payload, "payload").map_err(|reason| reason.to_string())?;
        Ok(JsonText::slice_of(body, payload))
    }

    fn named(&self, name: &str, part: Part, what: &str) -> String {
        let pointer = self.pointers[part as usize].map_or("", Pointer::as_str);
        format!("{name} (\"{pointer}\") {what}")
    }
}

/// Reads the lesser parts of one item and keeps the first reason that makes the event bad.
struct Faults<'r, 'm, 'a> {
    reader: &'r ItemReader<'m>,
    parts: &'r Parts<'a>,
    reason: Option<String>,
}

impl Faults<'_, '_, '_> {
    fn read<T>(
        &mut self,
        part: Part,
        name: &str,
        parse: impl Fn(&str) -> Result<Option<T>, String>,
    ) -> Option<T> {
        match parse(self.parts.found(part)?) {
            Ok(value) => value,
            Err(what) => {
                let reader = self.reader;
                self.reason.get_or_insert_with(|| reader.named(name, part, &what));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
