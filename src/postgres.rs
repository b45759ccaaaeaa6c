//! The connection to PostgreSQL: pool, migrations, and the embedded server.

pub mod connections;
pub mod embedded;
pub mod inspect;
pub mod migrate;
pub mod pool;
