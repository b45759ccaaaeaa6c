//! Makes foreign text safe and short enough for messages, log lines and table columns.

/// Shows the beginning of `text` in at most `length_max` characters, then `…`. Control characters and characters that
/// change the direction or the lines of what surrounds them are escaped, and count as what is shown of them: a body must
/// not forge a log line, hide part of a reason, or make it longer than it may be.
pub(crate) fn excerpt(text: &str, length_max: usize) -> String {
    let mut shown = String::new();
    let mut length = 0;
    for character in text.chars() {
        let escape = escape(character);
        length += escape.as_ref().map_or(1, String::len);
        if length > length_max {
            shown.push('…');
            break;
        }
        match escape {
            Some(escape) => shown.push_str(&escape),
            None => shown.push(character),
        }
    }
    shown
}

/// What is shown of a character that is not safe to show; in ASCII.
fn escape(character: char) -> Option<String> {
    let is_unsafe = character.is_control()
        || matches!(character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    is_unsafe.then(|| format!("\\u{:04x}", u32::from(character)))
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
            ("\u{202e}", "\\u202e"),
            ("\u{202e}ü", "\\u202e…"),
            ("ü\u{202e}😀", "ü…"),
        ] {
            assert_eq!(excerpt(text, 6), want, "{text:?}");
        }
        assert_eq!(excerpt("a\n\u{1b}\0", 19), "a\\u000a\\u001b\\u0000");
    }
}
