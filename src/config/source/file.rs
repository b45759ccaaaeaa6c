//! `type = "file"`.

use std::path::{Path, PathBuf};

use super::item::{read_mapping, read_max_page_bytes};
use crate::config::error::Problem;
use crate::config::reader::TableReader;
use crate::config::setting::Setting;
use crate::mapping::Mapping;

/// A file of newline-delimited JSON, followed as it grows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileConfig {
    /// `path`: the file. Required. A relative one begins at the configuration file's directory.
    pub path: PathBuf,
    /// Where the parts of an event are: `id` (default `/id`), `event_type` (default none, the type is the source's name),
    /// `occurred_at`, `message_id` (default none), `payload` (default `""`, the whole line); and `max_event_bytes`,
    /// above which it becomes a dead letter (default 1MiB, 1KiB to 64MiB).
    pub mapping: Mapping,
    /// `max_page_bytes`: the most that is read at once. Bytes, default 64MiB, `max_event_bytes` to
    /// 256MiB.
    pub max_page_bytes: usize,
}

impl FileConfig {
    pub(super) fn read(table: &mut TableReader<'_>) -> Option<Self> {
        let base = table.document().path.parent().unwrap_or(Path::new(""));
        let path = table.require("path", "add path = \"events.ndjson\"", |s| file_path(s, base));
        let mapping = read_mapping(table);
        let max_page_bytes = read_max_page_bytes(table, mapping.max_event_bytes);
        Some(Self { path: path?.value, mapping, max_page_bytes })
    }
}

/// A path; a relative one begins at `base`.
pub(super) fn file_path(setting: &Setting<'_>, base: &Path) -> Result<PathBuf, Problem> {
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
