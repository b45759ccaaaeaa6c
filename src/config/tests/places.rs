//! Which file is read, and what a file that cannot be read is called.

use std::fs;

use super::*;

#[test]
fn what_is_no_file_does_not_fill_the_memory() {
    let request = LoadRequest { config_flag: Some("/dev/zero".into()), database_url_flag: None };
    let message = Config::load(&request, &environment(&[])).unwrap_err().to_string();
    assert!(message.contains("/dev/zero: is larger than 16 MiB (named by --config)"), "{message}");
}

#[test]
fn the_flag_comes_before_the_variable_and_relative_paths_begin_at_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.toml");
    fs::write(&path, "\u{feff}[sources.a]\ntype = \"file\"\npath = \"logs/x\"\n").unwrap();
    let request = LoadRequest { config_flag: Some(path.clone()), database_url_flag: None };
    let config = Config::load(&request, &environment(&[("EVENTLOADER_CONFIG", "/none")])).unwrap();
    assert_eq!(config.path.as_deref(), Some(path.as_path()));
    let SourceKind::File(file) = &config.sources[0].kind else { panic!("not a file") };
    assert_eq!(file.path, dir.path().join("logs/x"));
}

#[test]
fn the_usual_places_are_searched_in_order_and_may_all_be_empty() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("1.toml"), dir.path().join("2.toml"));
    let search = || document::first_of([first.clone(), second.clone()]);
    assert!(search().unwrap().is_none());
    fs::write(&second, "two").unwrap();
    assert_eq!(search().unwrap().unwrap().1, "two");
    fs::write(&first, "one").unwrap();
    assert_eq!(search().unwrap().unwrap().1, "one");
    fs::remove_file(&first).unwrap();
    fs::create_dir(&first).unwrap();
    assert!(search().is_err(), "what exists and cannot be read is not passed over");
}

#[test]
fn the_database_url_flag_is_checked_and_never_shown() {
    let request = LoadRequest {
        config_flag: None,
        database_url_flag: Some(SecretString::from("mysql://u:hunter2@h/d")),
    };
    let path = Path::new("x");
    let flag = request.database_url_flag.as_ref();
    let refuse = |text, flag| {
        Config::parse(path, text, flag, &environment(&[]), Purpose::Load).unwrap_err().to_string()
    };
    let message = refuse("", flag);
    assert!(message.starts_with("--database-url: database.url: found a value, not a"), "{message}");
    assert!(!message.contains("hunter2") && !format!("{request:?}").contains("hunter2"));
    let empty = SecretString::from("");
    let message = refuse("", Some(&empty));
    assert!(message.contains("--database-url: database.url: empty"), "{message}");
}
