//! Keys that every source of JSON items has: where the parts of an event are, and how large it is.

use crate::config::error::Problem;
use crate::config::pointer::json_pointer;
use crate::config::reader::TableReader;
use crate::config::size;
use crate::mapping::{Mapping, Pointer};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Reads where the parts of an event are, and how large it may be. `items` is for the caller, where there are pages.
pub(super) fn read_mapping(table: &mut TableReader<'_>) -> Mapping {
    let mut optional = |key| table.read_or(key, None, |s| json_pointer(s).map(Some));
    let event_type = optional("event_type");
    let occurred_at = optional("occurred_at");
    let message_id = optional("message_id");
    let id = table.read("id", json_pointer);
    if let Some(whole) = id.as_ref().filter(|id| id.value.as_str().is_empty()) {
        let problem = Problem::new("found \"\", which is the whole item")
            .expected("a pointer to the item's integer id")
            .help("write \"/id\", or where in the item the id is");
        table.report_at(&whole.origin, "id", problem);
    }
    Mapping {
        items: Pointer::whole(),
        id: id.map_or_else(|| Pointer::to_key("id"), |read| read.value),
        event_type,
        occurred_at,
        message_id,
        payload: table.read_or("payload", Pointer::whole(), json_pointer),
        max_event_bytes: read_max_event_bytes(table),
    }
}

/// Reads how large an event may be, in bytes.
pub(super) fn read_max_event_bytes(table: &mut TableReader<'_>) -> usize {
    table.read_or("max_event_bytes", 1 << 20, |s| s.size(KIB..=64 * MIB))
}

/// Reads how large a page may be, in bytes. PostgreSQL takes at most 1 GiB in one message.
pub(super) fn read_max_page_bytes(table: &mut TableReader<'_>, max_event_bytes: usize) -> usize {
    let page = table.read("max_page_bytes", |s| s.size(KIB..=256 * MIB));
    if let Some(page) = page.as_ref().filter(|page| page.value < max_event_bytes) {
        let event = size::format(max_event_bytes as u64);
        let problem = Problem::new("smaller than max_event_bytes")
            .expected(format!("at least max_event_bytes, which is \"{event}\" here"))
            .help("raise max_page_bytes or lower max_event_bytes");
        table.report_at(&page.origin, "max_page_bytes", problem);
    }
    page.map_or(64 << 20, |read| read.value)
}
