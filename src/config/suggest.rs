//! "Did you mean": the nearest of a few valid names.

/// Returns the candidate that a misspelt name most likely stands for.
///
/// Case and the separators `-`, `_`, `.` do not count; otherwise up to a third of the name may
/// differ.
pub(super) fn nearest<'c>(
    name: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let folded = fold(name);
    let allowed = (folded.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&folded, &fold(candidate)), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn fold(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '-' | '_' | '.')).flat_map(char::to_lowercase).collect()
}

/// Lists names for a message: `` `a`, `b` and `c` ``.
pub(super) fn list<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    let mut names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match (names.pop(), names.is_empty()) {
        (None, _) => "none".to_owned(),
        (Some(last), true) => last,
        (Some(last), false) => format!("{} and {last}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_forgives_typos_case_and_separators_only() {
        let keys = ["batch_size", "min_interval", "max_idle", "id", "url", "timeout"];
        for (name, want) in [
            ("batchsize", Some("batch_size")),
            ("batch-size", Some("batch_size")),
            ("batchSize", Some("batch_size")),
            ("timout", Some("timeout")),
            ("timeuot", Some("timeout")),
            ("ulr", Some("url")),
            ("ids", Some("id")),
            ("minimum_interval", Some("min_interval")),
            ("colour", None),
            ("xyz", None),
        ] {
            assert_eq!(nearest(name, keys), want, "{name}");
        }
    }

    #[test]
    fn list_reads_as_a_sentence() {
        assert_eq!(list([]), "none");
        assert_eq!(list(["a"]), "`a`");
        assert_eq!(list(["a", "b", "c"]), "`a`, `b` and `c`");
    }
}
