//! The configuration file: finding it, reading it, and saying where in it something stands.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::error::{ConfigError, Finding, Place};
use super::masking;
use super::snippet::Snippet;

/// Where a file is looked for that nobody named, in this order.
const SEARCHED: &[&str] = &["eventloader.toml", "/etc/eventloader/eventloader.toml"];
/// More than this is no configuration; keeps a wrong path (`/dev/zero`) from filling the memory.
const MAX_FILE_BYTES: u64 = 16 << 20;
const BOM: &str = "\u{feff}";

/// The file's text and the parts of it that must not be shown.
pub(super) struct Document<'t> {
    pub(super) path: &'t Path,
    pub(super) text: &'t str,
    /// In the order of the text, without overlaps.
    masks: Vec<Range<usize>>,
    /// The first byte of each line.
    line_starts: Vec<usize>,
}

/// How a file was chosen, which decides whether it may be missing.
pub(super) enum Chosen {
    /// By `--config` or `EVENTLOADER_CONFIG`.
    Named { path: PathBuf, by: Place },
    /// The first of the usual places.
    Searched,
}

/// Reads the chosen file; `None` where none was named and none is in the usual places.
pub(super) fn read_chosen(chosen: Chosen) -> Result<Option<(PathBuf, String)>, ConfigError> {
    match chosen {
        Chosen::Named { path, by } => {
            let text = read(&path).map_err(|error| unreadable(&path, Some(&by), &error))?;
            Ok(Some((path, text)))
        }
        Chosen::Searched => first_of(SEARCHED.iter().map(PathBuf::from)),
    }
}

/// Reads the first file that exists. One that exists and cannot be read is an error, not skipped.
pub(super) fn first_of(
    paths: impl IntoIterator<Item = PathBuf>,
) -> Result<Option<(PathBuf, String)>, ConfigError> {
    for path in paths {
        match read(&path) {
            Ok(text) => return Ok(Some((path, text))),
            Err(ReadError::Io(error)) if is_absent(&error) => {}
            Err(error) => return Err(unreadable(&path, None, &error)),
        }
    }
    Ok(None)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

enum ReadError {
    Io(io::Error),
    Directory,
    TooLarge,
    NotUtf8 { line: usize, column: usize },
}

fn read(path: &Path) -> Result<String, ReadError> {
    if path.is_dir() {
        return Err(ReadError::Directory);
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(ReadError::Io)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(ReadError::Io)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(ReadError::TooLarge);
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
        let line_start = valid.rfind('\n').map_or(0, |newline| newline + 1);
        ReadError::NotUtf8 {
            line: valid.matches('\n').count() + 1,
            column: valid[line_start..].chars().count() + 1,
        }
    })?;
    Ok(text.strip_prefix(BOM).map(str::to_owned).unwrap_or(text))
}

fn unreadable(path: &Path, named_by: Option<&Place>, error: &ReadError) -> ConfigError {
    let file = Place::File(path.to_owned());
    let naming = named_by.map(|by| format!(" (named by {by})")).unwrap_or_default();
    ConfigError::from(match error {
        ReadError::Directory => Finding::new(file, format!("is a directory{naming}")).with_help(
            format!("name the file in it, for example {}", path.join("eventloader.toml").display()),
        ),
        ReadError::TooLarge => Finding::new(file, format!("is larger than 16 MiB{naming}"))
            .with_help("name a configuration file"),
        ReadError::NotUtf8 { line, column } => {
            let place = Place::Position { path: path.to_owned(), line: *line, column: *column };
            Finding::new(place, "is not valid UTF-8").with_help("save the file as UTF-8")
        }
        ReadError::Io(error) => {
            let help = if is_absent(error) {
                "check the path, or leave it out to use ./eventloader.toml"
            } else {
                "the user that runs eventloader must be able to read it"
            };
            Finding::new(file, format!("cannot be read{naming}: {error}")).with_help(help)
        }
    })
}

impl<'t> Document<'t> {
    /// Wraps the text of a file; `masks` are the bytes not to show.
    pub(super) fn new(path: &'t Path, text: &'t str, mut masks: Vec<Range<usize>>) -> Self {
        masks.sort_by_key(|mask| mask.start);
        let line_starts =
            std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { path, text, masks, line_starts }
    }

    /// The place of a byte.
    pub(super) fn place(&self, offset: usize) -> Place {
        let (line, _, start) = self.line_of(offset);
        let column = self.text[start..self.text.floor_char_boundary(offset)].chars().count() + 1;
        Place::Position { path: self.path.to_owned(), line, column }
    }

    /// The line in which a range begins, drawn with carets under it.
    pub(super) fn snippet(&self, span: &Range<usize>) -> Snippet {
        let (number, line, start) = self.line_of(span.start);
        let first = self.masks.partition_point(|mask| mask.end <= start);
        let masks: Vec<_> = self.masks[first..]
            .iter()
            .take_while(|mask| mask.start < start + line.len())
            .map(|mask| mask.start.saturating_sub(start)..(mask.end - start).min(line.len()))
            .collect();
        Snippet::draw(number, line, shift(span, start), &masks)
    }

    /// The same for a file that could not be parsed, where secrets are guessed from the line.
    pub(super) fn snippet_of_broken_line(&self, span: &Range<usize>) -> Snippet {
        let (number, line, start) = self.line_of(span.start);
        let mask = masking::mask_of_broken_line(&self.text[..start], line);
        Snippet::draw(number, line, shift(span, start), mask.as_slice())
    }

    /// Number, text and first byte of the line that holds a byte.
    pub(super) fn line_of(&self, offset: usize) -> (usize, &'t str, usize) {
        let number = self.line_starts.partition_point(|start| *start <= offset).max(1);
        let start = self.line_starts[number - 1];
        (number, self.text[start..].lines().next().unwrap_or_default(), start)
    }
}

fn shift(span: &Range<usize>, start: usize) -> Range<usize> {
    span.start.saturating_sub(start)..span.end.saturating_sub(start)
}
