//! Tells whether `jsonb` would hold a JSON text, and hold it without changing its value.
//!
//! One pass over text that is already valid JSON; a loop with its own stack, never a recursion.
//! The buffers of a [`Screen`] are kept between texts, so that nothing is allocated as long as
//! all is well. Start reading at [`Screen::check`].
//!
//! Every limit was measured on Postgres 15.18 (UTF-8, default settings).

use super::excerpt::excerpt;
use super::number::{NumberFault, check_number};
use super::walk::{TextFault, decode, string_end};

mod keys;
mod path;

use keys::{Frame, KeyMark};

/// Deepest nesting of arrays and objects. Postgres parses `jsonb` recursively: 12,000 levels
/// pass and 15,000 fail with the default `max_stack_depth` of 2 MB; an operator may have set less.
pub const MAX_DEPTH: usize = 5_000;

/// Most bytes of a `jsonb`, and of a string in it (`JENTRY_OFFLENMASK`, 28 bits).
pub const MAX_JSONB_BYTES: u64 = (1 << 28) - 1;

/// Most elements of an array; with one more, Postgres asks for 1 GiB at once and fails.
pub const MAX_ARRAY_ELEMENTS: u32 = 1 << 24;

/// Most members of an object, for the same reason.
pub const MAX_OBJECT_MEMBERS: u32 = 1 << 23;

/// Most bytes that the numbers with an exponent may take together when Postgres prints them.
/// `1e131071` is 8 bytes on the wire and 131,072 when read back: 10,000 of them are stored and can
/// then not be read, because the printed text would pass 1 GB ("out of memory").
pub const MAX_PRINTED_NUMBER_BYTES: u64 = 1 << 24;

/// Why `jsonb` cannot hold a text as it is. `place` is a path such as `payload.user.tags[3]`, or
/// "a key of" such a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unstorable {
    /// A string or key with an escaped NUL.
    #[error("{place} holds \\u0000, which PostgreSQL cannot store")]
    Nul {
        /// Where.
        place: String,
    },
    /// Half of a surrogate pair, escaped.
    #[error(
        "{place} holds the lone surrogate \\u{unit:04x}, which is no character and PostgreSQL cannot store"
    )]
    LoneSurrogate {
        /// Where.
        place: String,
        /// The UTF-16 code unit.
        unit: u32,
    },
    /// Arrays and objects within each other, more than [`MAX_DEPTH`].
    #[error("{place} is nested deeper than {MAX_DEPTH} levels")]
    TooDeep {
        /// Where the first level too many begins.
        place: String,
    },
    /// A number that `numeric` would refuse.
    #[error("{place} is the number {number}, which {fault}: PostgreSQL cannot store it exactly")]
    Number {
        /// Where.
        place: String,
        /// The number, shortened.
        number: String,
        /// What is wrong with it.
        fault: NumberFault,
    },
    /// Two members of one object with the same key.
    #[error("{place} has the key \"{key}\" more than once, of which jsonb keeps only the last")]
    DuplicateKey {
        /// The object.
        place: String,
        /// The key, shortened.
        key: String,
    },
    /// A string or key of more than [`MAX_JSONB_BYTES`].
    #[error("{place} is a text of {bytes} bytes, more than the {MAX_JSONB_BYTES} that jsonb holds")]
    TextTooLong {
        /// Where.
        place: String,
        /// Its length as it is written.
        bytes: u64,
    },
    /// More than [`MAX_ARRAY_ELEMENTS`] or [`MAX_OBJECT_MEMBERS`].
    #[error("{place} has more than {count_max} members, the most that jsonb holds")]
    TooManyMembers {
        /// The array or object.
        place: String,
        /// The limit that applies to it.
        count_max: u32,
    },
    /// The whole as a `jsonb`.
    #[error("{place} takes up to {bytes} bytes as jsonb, more than the {MAX_JSONB_BYTES} it holds")]
    TooLarge {
        /// The root.
        place: String,
        /// An upper bound, at most a few bytes per number above the truth.
        bytes: u64,
    },
    /// The numbers that have an exponent, once it is written out.
    #[error(
        "{place} has numbers that take {bytes} bytes when PostgreSQL prints them, more than {MAX_PRINTED_NUMBER_BYTES}"
    )]
    TooLargeInPrint {
        /// The root.
        place: String,
        /// Their printed length.
        bytes: u64,
    },
}

/// The check, with buffers that are kept from one text to the next.
#[derive(Debug, Default)]
pub struct Screen {
    frames: Vec<Frame>,
    keys: Vec<KeyMark>,
}

impl Screen {
    /// Checks `text`, which must be valid JSON; reasons call its root `root`.
    ///
    /// # Errors
    /// The first reason, in the order of the text, for which `jsonb` would refuse the text, change
    /// its value or be unable to give it back. A repeated key is found at the end of its object.
    pub fn check(&mut self, text: &str, root: &str) -> Result<(), Unstorable> {
        self.frames.clear();
        self.keys.clear();
        // Offsets are kept in 32 bits; such a text could not be sent to PostgreSQL either.
        if u32::try_from(text.len()).is_err() {
            return Err(Unstorable::TooLarge { place: root.to_owned(), bytes: text.len() as u64 });
        }
        let Self { frames, keys } = self;
        let (stored, printed, key_is_next) = (0, 0, false);
        Scan { text, root, at: 0, frames, keys, stored, printed, key_is_next }.run()
    }
}

struct Scan<'a> {
    text: &'a str,
    root: &'a str,
    at: usize,
    /// The arrays and objects around `at`, the outermost first.
    frames: &'a mut Vec<Frame>,
    /// The keys so far of all objects in `frames`.
    keys: &'a mut Vec<KeyMark>,
    /// Bytes as jsonb, an upper bound.
    stored: u64,
    /// Bytes in print of numbers with an exponent.
    printed: u64,
    key_is_next: bool,
}

/// Each value and key has an entry of 4 bytes in its container.
const ENTRY_BYTES: u64 = 4;
/// A container begins with 4 bytes and is aligned to 4.
const CONTAINER_BYTES: u64 = 4 + 3;

impl Scan<'_> {
    fn run(mut self) -> Result<(), Unstorable> {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            match byte {
                b'"' => self.string()?,
                b',' => self.next_member()?,
                b'{' => self.open(Frame::object(self.keys.len()))?,
                b'[' => self.open(Frame::array())?,
                b'}' | b']' => self.close()?,
                b'-' | b'0'..=b'9' => self.number()?,
                b't' | b'n' => self.literal("true".len()),
                b'f' => self.literal("false".len()),
                // White space and colons.
                _ => self.at += 1,
            }
        }
        self.check_totals()
    }

    fn check_totals(&self) -> Result<(), Unstorable> {
        let place = || self.root.to_owned();
        if self.stored > MAX_JSONB_BYTES {
            return Err(Unstorable::TooLarge { place: place(), bytes: self.stored });
        }
        if self.printed > MAX_PRINTED_NUMBER_BYTES {
            return Err(Unstorable::TooLargeInPrint { place: place(), bytes: self.printed });
        }
        Ok(())
    }

    fn open(&mut self, frame: Frame) -> Result<(), Unstorable> {
        if self.frames.len() == MAX_DEPTH {
            return Err(Unstorable::TooDeep { place: self.place() });
        }
        self.stored += ENTRY_BYTES + CONTAINER_BYTES;
        self.key_is_next = frame.is_object;
        self.frames.push(frame);
        self.at += 1;
        Ok(())
    }

    fn close(&mut self) -> Result<(), Unstorable> {
        self.at += 1;
        self.key_is_next = false;
        let Some(frame) = self.frames.last() else { return Ok(()) };
        if frame.is_object {
            let members = self.keys.get_mut(frame.keys_from..).unwrap_or_default();
            if let Some(mark) = keys::find_duplicate(self.text, members) {
                let key = excerpt(mark.inside(self.text), 80);
                self.frames.pop();
                return Err(Unstorable::DuplicateKey { place: self.place(), key });
            }
            self.keys.truncate(frame.keys_from);
        }
        self.frames.pop();
        Ok(())
    }

    fn next_member(&mut self) -> Result<(), Unstorable> {
        self.at += 1;
        let Some(frame) = self.frames.last_mut() else { return Ok(()) };
        frame.index += 1;
        self.key_is_next = frame.is_object;
        let count_max = if frame.is_object { MAX_OBJECT_MEMBERS } else { MAX_ARRAY_ELEMENTS };
        if frame.index >= count_max {
            self.frames.pop();
            return Err(Unstorable::TooManyMembers { place: self.place(), count_max });
        }
        Ok(())
    }

    fn literal(&mut self, length: usize) {
        self.stored += ENTRY_BYTES;
        self.at += length;
    }

    fn number(&mut self) -> Result<(), Unstorable> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let in_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E');
        let length = rest.bytes().take_while(in_number).count();
        let token = rest.get(..length).unwrap_or_default();
        match check_number(token) {
            Ok(size) => {
                self.stored += ENTRY_BYTES + size.stored;
                self.printed += size.printed;
                self.at += length;
                Ok(())
            }
            Err(fault) => {
                let number = excerpt(token, 40);
                Err(Unstorable::Number { place: self.place(), number, fault })
            }
        }
    }

    fn string(&mut self) -> Result<(), Unstorable> {
        let start = self.at + 1;
        let (end, escaped) = string_end(self.text.as_bytes(), start);
        let inside = self.text.get(start..end).unwrap_or_default();
        if escaped || inside.len() as u64 > MAX_JSONB_BYTES {
            self.check_text(inside)?;
        }
        self.stored += ENTRY_BYTES + inside.len() as u64;
        self.at = end + 1;
        if self.key_is_next {
            self.key_is_next = false;
            let mark = KeyMark::new(inside, start, escaped);
            if let Some(frame) = self.frames.last_mut() {
                frame.key_at = self.keys.len();
            }
            self.keys.push(mark);
        }
        Ok(())
    }

    fn check_text(&self, inside: &str) -> Result<(), Unstorable> {
        let place = || if self.key_is_next { self.place_of_key() } else { self.place() };
        match find_text_fault(inside) {
            Some(TextFault::Nul) => Err(Unstorable::Nul { place: place() }),
            Some(TextFault::LoneSurrogate(unit)) => {
                Err(Unstorable::LoneSurrogate { place: place(), unit })
            }
            None if inside.len() as u64 > MAX_JSONB_BYTES => {
                Err(Unstorable::TextTooLong { place: place(), bytes: inside.len() as u64 })
            }
            None => Ok(()),
        }
    }

    /// The path of the value at hand.
    fn place(&self) -> String {
        path::of_value(self.text, self.root, self.frames, self.keys)
    }

    fn place_of_key(&self) -> String {
        let around = self.frames.split_last().map_or(&[][..], |(_, around)| around);
        format!("a key of {}", path::of_value(self.text, self.root, around, self.keys))
    }
}

/// Finds the first escape of `inside` that is no character for Postgres; only `\u` can be one.
fn find_text_fault(inside: &str) -> Option<TextFault> {
    if inside.contains("\\u") { decode(inside).err() } else { None }
}

#[cfg(test)]
mod tests;
