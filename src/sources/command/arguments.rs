//! Fills the places in a command's arguments.

use std::path::Path;

/// Stands for the id after which events are asked for.
pub const AFTER_ID: &str = "{after_id}";
/// Stands for how many events are asked for at most.
pub const LIMIT: &str = "{limit}";
/// Stands for the path of a file with the state that a Singer tap begins at.
pub const STATE: &str = "{state}";

/// What is filled in.
pub(super) enum Place<'a> {
    /// `mode = "lines"`.
    Window { after_id: i64, limit: u32 },
    /// `mode = "singer"`; without a file where there is no state yet.
    State(Option<&'a Path>),
}

/// The arguments as the program gets them. Taps do not take an empty state, so without one the argument that names it is
/// left out, and an option (`--state`) directly before it that has no other value.
pub(super) fn fill(command: &[String], place: &Place<'_>) -> Vec<String> {
    let mut filled: Vec<String> = Vec::with_capacity(command.len());
    for argument in command {
        match place {
            Place::Window { after_id, limit } => {
                let argument = argument.replace(AFTER_ID, &after_id.to_string());
                filled.push(argument.replace(LIMIT, &limit.to_string()));
            }
            Place::State(Some(path)) => {
                filled.push(argument.replace(STATE, &path.display().to_string()));
            }
            Place::State(None) if argument.contains(STATE) => {
                let is_value = argument == STATE;
                // The first argument is the program itself.
                if is_value && filled.len() > 1 {
                    filled.pop_if(|before| before.starts_with('-') && !before.contains('='));
                }
            }
            Place::State(None) => filled.push(argument.clone()),
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(command: &[&str], place: &Place<'_>) -> Vec<String> {
        fill(&command.iter().map(ToString::to_string).collect::<Vec<_>>(), place)
    }

    #[test]
    fn a_window_is_filled_in_anywhere() {
        let command =
            ["get", "--from={after_id}", "{limit}", "{after_id}-{after_id}", "{state}", "{x}"];
        let place = Place::Window { after_id: -1, limit: 10 };
        assert_eq!(filled(&command, &place), ["get", "--from=-1", "10", "-1--1", "{state}", "{x}"]);
    }

    #[test]
    fn without_a_state_its_option_is_left_out() {
        let path = Path::new("/tmp/s.json");
        for (command, with, without) in [
            (
                &["tap", "--config", "c", "--state", "{state}"][..],
                &["tap", "--config", "c", "--state", "/tmp/s.json"][..],
                &["tap", "--config", "c"][..],
            ),
            (
                &["tap", "--state={state}", "-v"],
                &["tap", "--state=/tmp/s.json", "-v"],
                &["tap", "-v"],
            ),
            (&["tap", "-s", "{state}", "x"], &["tap", "-s", "/tmp/s.json", "x"], &["tap", "x"]),
            (&["tap", "c", "{state}"], &["tap", "c", "/tmp/s.json"], &["tap", "c"]),
            (&["tap", "--a=b", "{state}"], &["tap", "--a=b", "/tmp/s.json"], &["tap", "--a=b"]),
            (&["-tap", "{state}"], &["-tap", "/tmp/s.json"], &["-tap"]),
        ] {
            assert_eq!(filled(command, &Place::State(Some(path))), with);
            assert_eq!(filled(command, &Place::State(None)), without);
        }
    }
}
