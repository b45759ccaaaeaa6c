//! Protocols broken on purpose: the fault campaign (`tests/chaos/`) has to catch each. Without the feature `chaos` there
//! is nothing of it in the program. Those that are decided in the database are changed there, by the campaign.

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Nobody looks at the age of a grant, and requests are spaced by their grants.
    SpacingByGrant,
    /// A queue source acknowledges first and stores then.
    AcknowledgeFirst,
}

#[cfg(not(feature = "chaos"))]
#[inline]
pub(crate) const fn is_on(_: Mutant) -> bool {
    false
}

#[cfg(feature = "chaos")]
pub(crate) use chosen::{choose, is_on};

#[cfg(feature = "chaos")]
mod chosen {
    use std::sync::OnceLock;

    use super::Mutant;

    static CHOSEN: OnceLock<Mutant> = OnceLock::new();

    /// Takes the value of `EVENTLOADER_MUTANT`, once, at the start.
    ///
    /// # Errors
    ///
    /// There is none of that name.
    pub(crate) fn choose(name: &str) -> Result<(), String> {
        let mutant = match name {
            "spacing_by_grant" => Mutant::SpacingByGrant,
            "acknowledge_first" => Mutant::AcknowledgeFirst,
            _ => return Err(format!("EVENTLOADER_MUTANT={name}: there is none of that name")),
        };
        CHOSEN.set(mutant).map_err(|_| "chosen twice".to_owned())
    }

    /// Whether this one runs.
    pub(crate) fn is_on(mutant: Mutant) -> bool {
        CHOSEN.get() == Some(&mutant)
    }
}
