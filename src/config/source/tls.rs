//! Keys of certificates. Their files are read when the source is made.

use std::path::{Path, PathBuf};

use super::file;
use crate::config::error::Problem;
use crate::config::reader::TableReader;
use crate::sources::tls::{ClientFiles, TlsFiles};

/// Reads where the authorities to trust are.
pub(super) fn read_ca_file(table: &mut TableReader<'_>) -> Option<PathBuf> {
    read_path(table, "ca_file")
}

/// Reads which certificate files there are.
pub(super) fn read_tls(table: &mut TableReader<'_>) -> TlsFiles {
    let ca_file = read_ca_file(table);
    let cert_file = read_path(table, "client_cert_file");
    let key_file = read_path(table, "client_key_file");
    let lonely = |key: &str, missing: &str, table: &TableReader<'_>| {
        let problem = Problem::new(format!("without {missing}"));
        let help = format!("a certificate needs its key: add {missing}, or take {key} out");
        table.refuse(key, problem.help(help));
    };
    let has = |path: &Option<PathBuf>, key: &str| path.is_some() || table.has(key);
    match (has(&cert_file, "client_cert_file"), has(&key_file, "client_key_file")) {
        (true, false) => lonely("client_cert_file", "client_key_file", table),
        (false, true) => lonely("client_key_file", "client_cert_file", table),
        _ => {}
    }
    let client = cert_file.zip(key_file);
    let client = client.map(|(cert_file, key_file)| ClientFiles { cert_file, key_file });
    TlsFiles { ca_file, client }
}

fn read_path(table: &mut TableReader<'_>, key: &'static str) -> Option<PathBuf> {
    let base = table.document().path.parent().unwrap_or(Path::new(""));
    table.read(key, |s| file::path(s, base, "a file")).map(|read| read.value)
}
