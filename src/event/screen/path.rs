//! Names a place in a payload for people: `payload.user["first name"].tags[3]`.

use super::keys::{Frame, KeyMark};
use crate::event::excerpt::excerpt;

/// Longest path in a reason, in characters; the middle of a longer one is left out.
const PATH_LENGTH_MAX: usize = 200;
const KEY_LENGTH_MAX: usize = 60;

/// Writes the path of the value at hand inside `frames`.
pub(super) fn of_value(text: &str, root: &str, frames: &[Frame], keys: &[KeyMark]) -> String {
    let mut path = root.to_owned();
    for frame in frames {
        if frame.is_object {
            let key = keys.get(frame.key_at).map_or("", |mark| mark.inside(text));
            push_key(&mut path, key);
        } else {
            path.extend(["[", &frame.index.to_string(), "]"]);
        }
    }
    shorten(path)
}

fn push_key(path: &mut String, key: &str) {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !key.is_empty() && key.len() <= KEY_LENGTH_MAX && key.bytes().all(is_plain) {
        path.push('.');
        path.push_str(key);
    } else {
        path.extend(["[\"", &excerpt(key, KEY_LENGTH_MAX), "\"]"]);
    }
}

fn shorten(path: String) -> String {
    let length = path.chars().count();
    if length <= PATH_LENGTH_MAX {
        return path;
    }
    let half = PATH_LENGTH_MAX / 2;
    let head: String = path.chars().take(half).collect();
    let tail: String = path.chars().skip(length - half).collect();
    format!("{head}…{tail}")
}
