//! The whole module from text to value, and from mistake to message.

mod good;
#[cfg(feature = "kafka")]
mod kafka;
mod places;
mod wrong;

use super::*;

/// The variables that every test may use.
fn environment(more: &[(&str, &str)]) -> Environment {
    let usual = [("SHOP_TOKEN", "s3cr3t-token"), ("N", "7"), ("WORD", "abc")];
    Environment::from_pairs(usual.into_iter().chain(more.iter().copied()))
}

fn parse(text: &str, more: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let path = Path::new("eventloader.toml");
    let (config, _) = Config::parse(path, text, None, &environment(more), Purpose::Load)?;
    let refusals = reference::tests::refusals(text);
    assert_eq!(
        refusals,
        Vec::<String>::new(),
        "what is accepted, the schema has to accept: {text}"
    );
    Ok(config)
}

fn findings(text: &str, more: &[(&str, &str)]) -> Vec<Finding> {
    match parse(text, more) {
        Ok(config) => panic!("should be refused: {text}\n{config:?}"),
        Err(error) => error.findings().cloned().collect(),
    }
}
