//! Reads a file line by line from a place on.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};

/// Lines of a file, from an offset on.
pub(super) struct Lines<'f> {
    reader: BufReader<&'f File>,
    length_max: u64,
}

/// What was read of a line.
pub(super) struct Line {
    /// Bytes read, with the newline where there is one.
    pub(super) length: u64,
    /// How the text ends.
    pub(super) end: LineEnd,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LineEnd {
    /// At a newline.
    Newline,
    /// At the end of the file: the line is not complete, unless nobody writes to the file any more.
    EndOfFile,
    /// In the middle of a line that is longer than allowed; [`Lines::skip`] passes the rest.
    TooLong,
}

impl<'f> Lines<'f> {
    /// `length_max` is the longest line, its newline included.
    pub(super) fn from(
        mut file: &'f File,
        offset: u64,
        length_max: usize,
    ) -> std::io::Result<Self> {
        file.seek(SeekFrom::Start(offset))?;
        let reader = BufReader::with_capacity(1 << 16, file);
        Ok(Self { reader, length_max: length_max as u64 })
    }

    /// Reads the next line into `text`, without white space at its end. `None`: the end of the file.
    pub(super) fn next(&mut self, text: &mut Vec<u8>) -> std::io::Result<Option<Line>> {
        text.clear();
        let length = self.reader.by_ref().take(self.length_max).read_until(b'\n', text)? as u64;
        if length == 0 {
            return Ok(None);
        }
        let end = match text.last() {
            Some(b'\n') => LineEnd::Newline,
            _ if length == self.length_max => LineEnd::TooLong,
            _ => LineEnd::EndOfFile,
        };
        while text.last().is_some_and(u8::is_ascii_whitespace) {
            text.pop();
        }
        Ok(Some(Line { length, end }))
    }

    /// Passes the rest of a line; answers its length, and whether it ended.
    pub(super) fn skip(&mut self) -> std::io::Result<(u64, bool)> {
        let mut length = 0;
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return Ok((length, false));
            }
            let newline = buffer.iter().position(|byte| *byte == b'\n');
            let passed = newline.map_or(buffer.len(), |place| place + 1);
            self.reader.consume(passed);
            length += passed as u64;
            if newline.is_some() {
                return Ok((length, true));
            }
        }
    }
}
