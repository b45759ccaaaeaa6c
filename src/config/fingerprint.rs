//! What tells two readings of a configuration apart, part by part, without keeping its values.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::environment::Environment;
use super::interpolate;

/// The keys of `[loader]` that are no defaults of sources.
const OF_THE_INSTANCE: &[&str] = &["concurrency"];

/// A number for each part of the file: the same number means that the part reads the same. Only comparable within a
/// process, whose environment does not change.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Fingerprints {
    /// Sections by name; of `[loader]` only what concerns the whole instance.
    pub sections: BTreeMap<String, u64>,
    /// Sources by name, with what they take from `[loader]`.
    pub sources: BTreeMap<String, u64>,
}

/// Says nothing: the numbers differ where nothing that counts does.
impl fmt::Debug for Fingerprints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprints")
    }
}

impl Fingerprints {
    /// `base` is where relative paths begin.
    pub(super) fn of(root: &DeTable<'_>, base: &Path, environment: &Environment) -> Self {
        let mut fingerprints = Self::default();
        // Without a [loader] everything is at its default, as in an empty one.
        let nothing = DeTable::new();
        let loader = root.get("loader").and_then(|loader| loader.get_ref().as_table());
        let loader = loader.unwrap_or(&nothing);
        let is_own = |key: &str| OF_THE_INSTANCE.contains(&key);
        let mut defaults = DefaultHasher::new();
        hash_table(loader, &|key| !is_own(key), environment, &mut defaults);
        let mut own = DefaultHasher::new();
        hash_table(loader, &is_own, environment, &mut own);
        fingerprints.sections.insert("loader".to_owned(), own.finish());
        for (name, value) in root {
            let name = name.get_ref().as_ref();
            if !["loader", "sources"].contains(&name) {
                let mut hasher = DefaultHasher::new();
                hash_value(value.get_ref(), environment, &mut hasher);
                fingerprints.sections.insert(name.to_owned(), hasher.finish());
            }
        }
        let sources = root.get("sources").and_then(|sources| sources.get_ref().as_table());
        for (name, value) in sources.into_iter().flatten() {
            let mut hasher = defaults.clone();
            hash_value(value.get_ref(), environment, &mut hasher);
            hash_files(value.get_ref(), base, environment, &mut hasher);
            fingerprints.sources.insert(name.get_ref().clone().into_owned(), hasher.finish());
        }
        fingerprints
    }
}

/// What stands in the files that a source names (`ca_file` and its like): a certificate is renewed without a word of the
/// configuration changing. One that cannot be read is for the source to complain about.
fn hash_files(
    source: &DeValue<'_>,
    base: &Path,
    environment: &Environment,
    hasher: &mut DefaultHasher,
) {
    for (key, value) in source.as_table().into_iter().flatten() {
        if let DeValue::String(text) = value.get_ref()
            && key.get_ref().ends_with("_file")
            && let Ok(filled) = interpolate::fill(text, environment)
        {
            std::fs::read(base.join(filled.text)).ok().hash(hasher);
        }
    }
}

fn hash_table(
    table: &DeTable<'_>,
    wanted: &dyn Fn(&str) -> bool,
    environment: &Environment,
    hasher: &mut DefaultHasher,
) {
    let mut entries: Vec<_> = table.iter().filter(|(key, _)| wanted(key.get_ref())).collect();
    entries.sort_by_key(|(key, _)| key.get_ref().as_ref());
    entries.len().hash(hasher);
    for (key, value) in entries {
        key.get_ref().hash(hasher);
        hash_value(value.get_ref(), environment, hasher);
    }
}

fn hash_value(value: &DeValue<'_>, environment: &Environment, hasher: &mut DefaultHasher) {
    match value {
        // What is filled in may stand in a file, and change without a word of the configuration changing.
        DeValue::String(text) => {
            let filled = interpolate::fill(text, environment).ok().map(|filled| filled.text);
            ("string", text, filled).hash(hasher);
        }
        DeValue::Integer(number) => ("integer", number.to_string()).hash(hasher),
        DeValue::Float(number) => ("float", number.to_string()).hash(hasher),
        DeValue::Boolean(value) => ("boolean", value).hash(hasher),
        DeValue::Datetime(time) => ("time", time.to_string()).hash(hasher),
        DeValue::Array(array) => {
            ("array", array.len()).hash(hasher);
            for item in array {
                hash_value(item.get_ref(), environment, hasher);
            }
        }
        DeValue::Table(table) => {
            "table".hash(hasher);
            hash_table(table, &|_| true, environment, hasher);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Fingerprints {
        let environment = Environment::default();
        Fingerprints::of(DeTable::parse(text).unwrap().get_ref(), Path::new(""), &environment)
    }

    const FILE: &str = "[loader]\nbatch_size = 10\nconcurrency = 4\n[admin]\nlisten = \"x\"\n\
                        [sources.a]\nurl = \"u\"\n[sources.b]\nurl = \"u\"\nheaders = { X = \"1\" }\n";

    #[test]
    fn comments_order_and_lines_do_not_count() {
        let moved = "# a comment\n[sources.b]\nheaders = { X = \"1\" } # another\nurl = 'u'\n[admin]\nlisten = \"x\"\n\
                     [sources.a]\nurl = \"u\"\n[loader]\nconcurrency = 4\nbatch_size = 10\n";
        assert_eq!(of(moved), of(FILE));
    }

    #[test]
    fn a_source_changes_with_its_own_values_and_with_its_defaults() {
        let before = of(FILE);
        let after = of(&FILE.replace("X = \"1\"", "X = \"2\""));
        assert_eq!(after.sources["a"], before.sources["a"]);
        assert_ne!(after.sources["b"], before.sources["b"]);
        let after = of(&FILE.replace("batch_size = 10", "batch_size = 11"));
        assert_ne!(after.sources["a"], before.sources["a"]);
        assert_eq!(after.sections, before.sections);
    }

    #[test]
    fn a_file_that_a_source_names_counts_by_what_stands_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let environment = Environment::from_pairs([("CA", "ca.pem")]);
        let text = "[sources.a]\nca_file = \"${CA}\"\n[sources.b]\nurl = \"u\"\n";
        let read = || {
            Fingerprints::of(
                DeTable::parse(text).unwrap().get_ref(),
                directory.path(),
                &environment,
            )
        };
        let mut seen = vec![read()];
        for content in ["one", "two"] {
            std::fs::write(directory.path().join("ca.pem"), content).unwrap();
            seen.push(read());
        }
        assert_eq!(read(), seen[2]);
        assert_ne!(seen[0].sources["a"], seen[1].sources["a"]);
        assert_ne!(seen[1].sources["a"], seen[2].sources["a"]);
        assert_eq!(seen[0].sources["b"], seen[2].sources["b"]);
    }

    #[test]
    fn what_concerns_the_instance_is_no_change_of_a_source() {
        let before = of(FILE);
        let after = of(&FILE.replace("concurrency = 4", "concurrency = 5"));
        assert_eq!(after.sources, before.sources);
        assert_ne!(after.sections["loader"], before.sections["loader"]);
    }

    #[test]
    fn a_loader_section_changes_no_more_than_what_it_says() {
        let bare = "[sources.a]\nurl = \"u\"\n";
        let before = of(bare);
        assert_eq!(of(&format!("[loader]\n{bare}")), before);
        let after = of(&format!("[loader]\nconcurrency = 5\n{bare}"));
        assert_eq!(after.sources, before.sources);
        let after = of(&format!("[loader]\nbatch_size = 5\n{bare}"));
        assert_ne!(after.sources, before.sources);
        assert_eq!(after.sections, before.sections);
    }
}
