//! The files of one log: `path`, which is written to, and `path.1`, `path.2` …, which it was renamed to.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Rotated files that are looked for: `path.1` to `path.9`.
const ROTATED_MAX: u32 = 9;

/// What comes after a file that was read to its end.
pub(super) enum Successor {
    /// Nothing: the file is the one that is written to, or nothing was written after it yet.
    None,
    /// It was renamed, and this file was written after it.
    File(File),
    /// It is not among the files of the log any more, and there are others.
    Unknown,
}

/// A file of the log that cannot be read.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub(super) path: PathBuf,
    pub(super) cause: io::Error,
}

/// The files there are, oldest first: `path.9`, …, `path.1`, `path`.
pub(super) fn files(path: &Path) -> Result<Vec<(File, Metadata)>, Unreadable> {
    let rotated = (1..=ROTATED_MAX).rev().map(|n| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{n}"));
        PathBuf::from(name)
    });
    let mut files = Vec::new();
    for candidate in rotated.chain([path.to_owned()]) {
        match open(&candidate) {
            Ok(opened) => files.push(opened),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(cause) => return Err(Unreadable { path: candidate, cause }),
        }
    }
    Ok(files)
}

/// What was written after `file`. Costs one call as long as the file was not renamed.
pub(super) fn successor(path: &Path, file: &File) -> Result<Successor, Unreadable> {
    let unreadable = |cause| Unreadable { path: path.to_owned(), cause };
    let known = file.metadata().map_err(unreadable)?;
    let is_known = |other: &Metadata| (other.dev(), other.ino()) == (known.dev(), known.ino());
    if std::fs::metadata(path).is_ok_and(|current| is_known(&current)) {
        return Ok(Successor::None);
    }
    let files = files(path)?;
    let place = files.iter().position(|(_, other)| is_known(other));
    // A new file that is still empty proves nothing: after a rename the writer goes on in the old file until it opens
    // the new one.
    let mut later = files.into_iter().skip(place.map_or(0, |place| place + 1));
    let next = later.find(|(_, metadata)| metadata.len() > 0);
    Ok(match (place, next) {
        (_, None) => Successor::None,
        (Some(_), Some((file, _))) => Successor::File(file),
        (None, Some(_)) => Successor::Unknown,
    })
}

/// Opens a regular file. Anything else is refused before it is opened: a pipe would block.
fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let found = std::fs::metadata(path)?;
    if !found.is_file() {
        let what = if found.is_dir() { "it is a directory" } else { "it is not a regular file" };
        return Err(io::Error::other(what));
    }
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    Ok((file, metadata))
}
