//! One value, from the file or from outside it, and its conversions.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use super::environment::Environment;
use super::error::Problem;
use super::{duration, interpolate, masking, size, suggest};

/// A value that has not been converted yet.
pub(super) struct Setting<'a> {
    pub(super) environment: &'a Environment,
    /// Whether the value may stand in a message.
    pub(super) harmless: bool,
    pub(super) raw: Raw<'a>,
}

/// A value as it was found.
pub(super) enum Raw<'a> {
    /// In the file.
    File(&'a DeValue<'a>),
    /// In a variable or a flag; taken literally, never interpolated.
    Given(String),
}

/// A string value with its references filled in.
pub(super) struct Text {
    pub(super) value: String,
    /// The value as it may stand in a message.
    shown: Option<String>,
}

impl Text {
    /// Puts what was found before what is wrong with it.
    pub(super) fn refuse(&self, problem: Problem) -> Problem {
        let shown = self.shown.as_deref().unwrap_or("a value");
        Problem { found: format!("found {shown}, {}", problem.found), ..problem }
    }
}

impl Setting<'_> {
    /// A string, interpolated.
    pub(super) fn text(&self) -> Result<Text, Problem> {
        self.text_expected("a string")
    }

    /// A string, interpolated, where another type is answered with what is expected.
    pub(super) fn text_expected(&self, expected: &str) -> Result<Text, Problem> {
        match &self.raw {
            Raw::Given(text) => {
                let shown = self.harmless.then(|| format!("{text:?}"));
                Ok(Text { value: text.clone(), shown })
            }
            Raw::File(DeValue::String(text)) => {
                let filled = interpolate::fill(text, self.environment)?;
                let secret = filled.variables.iter().any(|name| masking::is_secret_variable(name));
                let harmless = self.harmless && !secret;
                let shown = harmless.then(|| format!("{:?}", filled.text));
                Ok(Text { value: filled.text, shown })
            }
            Raw::File(other) => {
                let problem = self.wrong_type(other, expected);
                let number = matches!(other, DeValue::Integer(_) | DeValue::Float(_));
                Err(if number { problem.help("put it in quotes") } else { problem })
            }
        }
    }

    /// A whole number in a range.
    pub(super) fn integer<T>(&self, range: RangeInclusive<T>) -> Result<T, Problem>
    where
        T: TryFrom<i64> + PartialOrd + Copy + Display,
    {
        let (low, high) = (*range.start(), *range.end());
        let expected = format!("a whole number from {low} to {high}");
        let (digits, number) = self.whole_number(&expected)?;
        let Some(number) = number else {
            return Err(Problem::new(self.found(&digits)).expected(expected));
        };
        match T::try_from(number) {
            Ok(value) if range.contains(&value) => Ok(value),
            _ => Err(Problem::new(self.found(&digits)).expected(expected).help(format!(
                "the {}",
                if number < 0 || T::try_from(number).is_ok_and(|value| value < low) {
                    format!("smallest is {low}")
                } else {
                    format!("largest is {high}")
                }
            ))),
        }
    }

    /// A number as it is written and, where it fits, its value.
    fn whole_number(&self, expected: &str) -> Result<(String, Option<i64>), Problem> {
        match &self.raw {
            Raw::File(DeValue::Integer(integer)) => {
                let value = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
                Ok((integer.to_string(), value))
            }
            Raw::File(DeValue::String(text)) if !text.contains("${") => {
                let problem = self.wrong_type(&DeValue::String(text.clone()), expected);
                let number = text.trim().parse::<i64>();
                Err(match number {
                    Ok(number) => problem.help(format!("write {number} without quotes")),
                    Err(_) => problem,
                })
            }
            Raw::File(other @ (DeValue::Float(_) | DeValue::Boolean(_))) => {
                Err(self.wrong_type(other, expected))
            }
            _ => {
                let text = self.text_expected(expected)?;
                let not_whole = || Problem::new("not a whole number").expected(expected);
                let value = text.value.trim().parse().map_err(|_| text.refuse(not_whole()))?;
                Ok((text.value, Some(value)))
            }
        }
    }

    /// A duration in a range.
    pub(super) fn duration(&self, range: RangeInclusive<Duration>) -> Result<Duration, Problem> {
        let (low, high) = (duration::format(*range.start()), duration::format(*range.end()));
        let expected = format!("a duration from \"{low}\" to \"{high}\"");
        let bare_number = match &self.raw {
            Raw::File(DeValue::Integer(integer)) => Some(integer.to_string()),
            Raw::File(DeValue::Float(float)) => Some(float.to_string()),
            _ => None,
        };
        if let Some(number) = bare_number {
            let problem = duration::without_unit(&number).expected(expected);
            return Err(Problem { found: format!("found {number}, {}", problem.found), ..problem });
        }
        let text = self.text_expected(&expected)?;
        let value = duration::parse(&text.value).map_err(|problem| text.refuse(problem))?;
        if range.contains(&value) {
            return Ok(value);
        }
        let (word, bound) =
            if value < *range.start() { ("shortest", low) } else { ("longest", high) };
        let problem = Problem::new("out of range").expected(expected);
        Err(text.refuse(problem.help(format!("the {word} is \"{bound}\""))))
    }

    /// A size in bytes in a range.
    pub(super) fn size(&self, range: RangeInclusive<u64>) -> Result<usize, Problem> {
        let (low, high) = (size::format(*range.start()), size::format(*range.end()));
        let expected = format!("a size from \"{low}\" to \"{high}\"");
        let text = match &self.raw {
            Raw::File(DeValue::Integer(integer)) => {
                let shown = self.harmless.then(|| integer.to_string());
                Text { value: integer.to_string(), shown }
            }
            _ => self.text_expected(&expected)?,
        };
        let value = size::parse(&text.value).map_err(|problem| text.refuse(problem))?;
        match usize::try_from(value) {
            Ok(bytes) if range.contains(&value) => Ok(bytes),
            _ => {
                let small = value < *range.start();
                let (word, bound) = if small { ("smallest", low) } else { ("largest", high) };
                let problem = Problem::new("out of range").expected(expected);
                Err(text.refuse(problem.help(format!("the {word} is \"{bound}\""))))
            }
        }
    }

    /// One of a few words.
    pub(super) fn one_of<T: Copy>(&self, words: &[(&'static str, T)]) -> Result<T, Problem> {
        let names = || words.iter().map(|(name, _)| *name);
        let expected = format!("one of {}", suggest::list(names()));
        let text = self.text_expected(&expected)?;
        if let Some((_, value)) = words.iter().find(|(name, _)| *name == text.value) {
            return Ok(*value);
        }
        let problem = text.refuse(Problem::new("not one of the choices").expected(expected));
        Err(match suggest::nearest(&text.value, names()) {
            Some(meant) => problem.help(format!("did you mean `{meant}`?")),
            None => problem,
        })
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Result<bool, Problem> {
        if let Raw::File(DeValue::Boolean(value)) = &self.raw {
            return Ok(*value);
        }
        let expected = "true or false";
        let text = self.text_expected(expected)?;
        match text.value.as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(text.refuse(Problem::new("neither of the two").expected(expected))),
        }
    }

    /// A list of strings; outside the file they are separated by commas.
    pub(super) fn texts(&self, expected: &str) -> Result<Vec<Text>, Problem> {
        match &self.raw {
            Raw::File(DeValue::Array(items)) => {
                let item = |item: &toml::Spanned<DeValue<'_>>| {
                    let raw = Raw::File(item.get_ref());
                    let Self { environment, harmless, .. } = *self;
                    Setting { environment, harmless, raw }.text_expected("strings in the list")
                };
                items.iter().map(item).collect()
            }
            Raw::File(other) => Err(self.wrong_type(other, expected)),
            Raw::Given(text) => Ok(text
                .split(',')
                .map(|part| part.trim().to_owned())
                .map(|part| Text { shown: self.harmless.then(|| format!("{part:?}")), value: part })
                .collect()),
        }
    }

    fn found(&self, text: &str) -> String {
        if self.harmless { format!("found {text}") } else { "found a number".to_owned() }
    }

    /// The problem of a value of another type.
    fn wrong_type(&self, value: &DeValue<'_>, expected: &str) -> Problem {
        wrong_type(value, self.harmless).expected(expected)
    }
}

/// Says which type was found, with the value where it is short and may be shown.
pub(super) fn wrong_type(value: &DeValue<'_>, harmless: bool) -> Problem {
    let (kind, shown) = match value {
        DeValue::String(text) => ("a string", Some(format!("{text:?}"))),
        DeValue::Integer(integer) => ("an integer", Some(integer.to_string())),
        DeValue::Float(float) => ("a number with a fraction", Some(float.to_string())),
        DeValue::Boolean(boolean) => ("a boolean", Some(boolean.to_string())),
        DeValue::Datetime(_) => ("a date or time", None),
        DeValue::Array(_) => ("an array", None),
        DeValue::Table(_) => ("a table", None),
    };
    Problem::new(match shown.filter(|_| harmless) {
        Some(shown) => format!("found {kind}, {shown}"),
        None => format!("found {kind}"),
    })
}
