//! The loading protocol, explored.

pub(crate) mod ledger;
