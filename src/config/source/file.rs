//! `type = "file"`.

use std::path::{Path, PathBuf};

use super::item::{ItemPointers, Limits};
use crate::config::error::Problem;
use crate::config::reader::TableReader;
use crate::config::setting::Setting;
use crate::mapping::Pointer;

/// A file of newline-delimited JSON, followed as it grows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileConfig {
    /// `path`: the file. Required. A relative one begins at the configuration file's directory.
    pub path: PathBuf,
    /// `id`: pointer from a line to its integer id. Default `/id`.
    pub id: Pointer,
    /// `event_type`: pointer to the type. Default none, the type is the source's name.
    pub event_type: Option<Pointer>,
    /// `occurred_at`: pointer to the time it happened. Default none.
    pub occurred_at: Option<Pointer>,
    /// `message_id`: pointer to a UUID. Default none.
    pub message_id: Option<Pointer>,
    /// `payload`: pointer to what is kept. Default `""`, the whole line.
    pub payload: Pointer,
    /// `max_event_bytes`: a longer line becomes a dead letter. Bytes, default 1MiB, 1KiB to 64MiB.
    pub max_event_bytes: usize,
    /// `max_page_bytes`: the most that is read at once. Bytes, default 64MiB, `max_event_bytes` to
    /// 1GiB.
    pub max_page_bytes: usize,
}

impl FileConfig {
    pub(super) fn read(table: &mut TableReader<'_>) -> Option<Self> {
        let base = table.document().path.parent().unwrap_or(Path::new(""));
        let path = table.require("path", "add path = \"events.ndjson\"", |s| file_path(s, base));
        let pointers = ItemPointers::read(table);
        let limits = Limits::read(table);
        Some(Self {
            path: path?.value,
            id: pointers.id,
            event_type: pointers.event_type,
            occurred_at: pointers.occurred_at,
            message_id: pointers.message_id,
            payload: pointers.payload,
            max_event_bytes: limits.max_event_bytes,
            max_page_bytes: limits.max_page_bytes,
        })
    }
}

fn file_path(setting: &Setting<'_>, base: &Path) -> Result<PathBuf, Problem> {
    let text = setting.text()?;
    if text.value.is_empty() || text.value.contains('\0') {
        return Err(text.refuse(Problem::new("not a path")).expected("the path of a file"));
    }
    if text.value == "~" || text.value.starts_with("~/") {
        let problem = Problem::new("where \"~\" is not filled in").expected("a path");
        return Err(text.refuse(problem.help(format!("write \"${{HOME}}{}\"", &text.value[1..]))));
    }
    Ok(base.join(&text.value))
}
