//! Makes foreign text safe and short enough for messages, log lines and table columns.

use std::fmt::Write as _;

/// Shows at most `length_max` characters of `text`, then `…`. Control characters and characters
/// that change the direction or the lines of what surrounds them are escaped: a body must not
/// forge a log line or hide part of a reason.
pub(crate) fn excerpt(text: &str, length_max: usize) -> String {
    let mut shown = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == length_max {
            shown.push('…');
            break;
        }
        push_safe(&mut shown, character);
    }
    shown
}

fn push_safe(shown: &mut String, character: char) {
    let unsafe_to_show = character.is_control()
        || matches!(character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    if unsafe_to_show {
        // Writing into a String cannot fail.
        write!(shown, "\\u{:04x}", u32::from(character)).expect("a String takes every write");
    } else {
        shown.push(character);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_are_short_and_safe() {
        for (text, want) in [
            ("", ""),
            ("abc", "abc"),
            ("abcdef", "abcdef"),
            ("abcdefg", "abcdef…"),
            ("a\n\u{1b}\0", "a\\u000a\\u001b\\u0000"),
            ("\u{202e}ü😀", "\\u202eü😀"),
        ] {
            assert_eq!(excerpt(text, 6), want, "{text:?}");
        }
    }
}
