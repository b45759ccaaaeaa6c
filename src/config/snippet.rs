//! The line of the file that a finding is about, with carets below the place.

use std::fmt;
use std::ops::Range;

/// What stands in a snippet where a value must not be shown.
const MASK: &str = "***";
/// Longer lines are cut to a window around the carets.
const WINDOW_CHARS: usize = 100;

/// One line of the configuration file, ready to print: secrets masked, control characters gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snippet {
    line_number: usize,
    line: String,
    caret_column: usize,
    caret_count: usize,
}

impl Snippet {
    /// Draws a line.
    ///
    /// `pointed` and `masks` are byte ranges of the line; masked parts come out as `***`.
    pub(super) fn draw(
        line_number: usize,
        line: &str,
        pointed: Range<usize>,
        masks: &[Range<usize>],
    ) -> Self {
        let mut shown = Vec::new();
        let (mut caret_start, mut caret_end) = (None, None);
        let mut masked_until = 0;
        for (at, c) in line.char_indices() {
            if at >= pointed.start && caret_start.is_none() {
                caret_start = Some(shown.len());
            }
            if at >= pointed.end && caret_end.is_none() {
                caret_end = Some(shown.len());
            }
            if at < masked_until {
                continue;
            }
            if let Some(mask) = masks.iter().find(|mask| mask.contains(&at)) {
                masked_until = mask.end;
                shown.extend(MASK.chars());
            } else {
                shown.push(if c.is_control() { ' ' } else { c });
            }
        }
        let start = caret_start.unwrap_or(shown.len());
        let end = caret_end.unwrap_or(shown.len()).max(start + 1);
        Self::cut_to_window(line_number, &shown, start..end)
    }

    fn cut_to_window(line_number: usize, shown: &[char], carets: Range<usize>) -> Self {
        let first = if shown.len() <= WINDOW_CHARS {
            0
        } else {
            carets.start.saturating_sub(WINDOW_CHARS / 2)
        };
        let last = shown.len().min(first + WINDOW_CHARS);
        let (before, after) =
            (if first > 0 { "…" } else { "" }, if last < shown.len() { "…" } else { "" });
        let middle: String = shown[first..last].iter().collect();
        let line = format!("{before}{middle}{after}").trim_end().to_owned();
        let caret_column = carets.start - first + before.chars().count();
        let caret_count = carets.len().min(last.saturating_sub(carets.start)).max(1);
        Self { line_number, line, caret_column, caret_count }
    }
}

impl fmt::Display for Snippet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line_number.to_string();
        let gutter = " ".repeat(number.len());
        writeln!(f, " {gutter} |")?;
        writeln!(f, " {number} | {}", self.line)?;
        let carets = "^".repeat(self.caret_count);
        write!(f, " {gutter} | {}{carets}", " ".repeat(self.caret_column))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carets_stand_below_what_they_point_at() {
        let snippet = Snippet::draw(14, "timeout = \"30\"\r", 10..14, &[]);
        assert_eq!(snippet.to_string(), "    |\n 14 | timeout = \"30\"\n    |           ^^^^");
    }

    #[test]
    fn masks_hide_text_and_shift_carets() {
        let line = "a = \"secret\", b = 1";
        let masks = vec![Range { start: 5, end: 11 }];
        let snippet = Snippet::draw(1, line, 18..19, &masks);
        assert_eq!(snippet.line, "a = \"***\", b = 1");
        assert_eq!(snippet.caret_column, 15);
        let snippet = Snippet::draw(1, line, 4..12, &masks);
        assert_eq!((snippet.caret_column, snippet.caret_count), (4, 5));
    }

    #[test]
    fn long_lines_and_control_characters_are_tamed() {
        let line = format!("{}\u{1b}[31mX", "ä".repeat(500));
        let snippet = Snippet::draw(1, &line, 1005..1006, &[]);
        assert!(snippet.line.chars().count() <= WINDOW_CHARS + 2);
        assert!(!snippet.line.contains('\u{1b}'));
        assert_eq!(snippet.line.chars().nth(snippet.caret_column), Some('X'));
    }

    #[test]
    fn the_end_of_the_file_can_be_pointed_at() {
        assert_eq!(Snippet::draw(1, "", 0..0, &[]).to_string(), "   |\n 1 | \n   | ^");
    }
}
