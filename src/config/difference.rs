//! What a new configuration changes for an instance that is running.

use super::{Config, SourceConfig};

/// The difference between two configurations.
#[derive(Debug, Default)]
pub struct Difference<'a> {
    /// Sources that are new.
    pub added: Vec<&'a SourceConfig>,
    /// Sources that were there, and read differently now.
    pub changed: Vec<&'a SourceConfig>,
    /// Names of sources that are gone.
    pub removed: Vec<&'a str>,
    /// How many sources stay as they are.
    pub unchanged_count: usize,
    /// Sections that changed and are only read at the start.
    pub needs_restart: Vec<&'a str>,
}

impl<'a> Difference<'a> {
    /// Compares two readings of the same process.
    pub fn between(before: &'a Config, after: &'a Config) -> Self {
        let mut difference = Self::default();
        let (old, new) = (&before.fingerprints, &after.fingerprints);
        for source in &after.sources {
            let name = source.name.as_str();
            match old.sources.get(name) {
                None => difference.added.push(source),
                Some(fingerprint) if new.sources.get(name) != Some(fingerprint) => {
                    difference.changed.push(source);
                }
                Some(_) => difference.unchanged_count += 1,
            }
        }
        let names = before.sources.iter().map(|source| source.name.as_str());
        difference.removed = names.filter(|name| !new.sources.contains_key(*name)).collect();
        let sections = old.sections.keys().chain(new.sections.keys());
        let differs = |name: &&String| old.sections.get(*name) != new.sections.get(*name);
        difference.needs_restart = sections.filter(differs).map(String::as_str).collect();
        difference.needs_restart.sort_unstable();
        difference.needs_restart.dedup();
        difference
    }
}
