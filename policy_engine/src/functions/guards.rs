//! Guards of operands: they fail where the engine and OPA may give different answers.

use anyhow::{Result, bail};
use regorus::Value;

use super::{Entry, patterns, string, type_name};

pub const ENTRIES: &[Entry] = &[
    ("__integer", 1, |v| passed(v, small_integer)),
    ("__moderate", 1, |v| passed(v, moderate)),
    ("__summable", 1, |v| passed(v, |value| bounded(value, |total, next| total + next))),
    ("__multipliable", 1, |v| passed(v, |value| bounded(value, |total, next| total * next))),
    ("__not_empty", 1, |v| {
        if matches!(&v[0], Value::String(text) if text.is_empty()) {
            bail!("the text to search for is empty");
        }
        Ok(v[0].clone())
    }),
    ("__one_line", 1, |v| {
        if matches!(&v[0], Value::String(text) if text.contains(['\n', '\r'])) {
            bail!("line breaks in an encoded text are not supported");
        }
        Ok(v[0].clone())
    }),
    ("__pattern", 1, |v| Ok(Value::from(patterns::translate(string(v, 0)?)?))),
    ("__separator", 1, |v| {
        let pattern = patterns::translate(string(v, 0)?)?;
        if regex::Regex::new(&pattern)?.is_match("") {
            bail!("a pattern that matches the empty text splits nothing in a defined way");
        }
        Ok(Value::from(pattern))
    }),
    ("__decoded", 1, |v| {
        if matches!(&v[0], Value::String(text) if text.contains('\u{fffd}')) {
            bail!("the decoded text is not UTF-8");
        }
        Ok(v[0].clone())
    }),
    ("__iterated", 1, |v| passed(v, iterated)),
    ("__plain", 1, |v| passed(v, plain)),
    ("__json", 1, |v| passed(v, json)),
    ("__numeral", 1, |v| passed(v, numeral)),
    ("__version", 1, |v| passed(v, version)),
];

fn passed(values: &[Value], check: fn(&Value) -> Result<()>) -> Result<Value> {
    check(&values[0])?;
    Ok(values[0].clone())
}

/// 2^53: up to here floating point and integers agree.
pub const LIMIT: f64 = 9_007_199_254_740_992.0;

/// An integer that fits an index; the engine runs with 32 bits.
fn small_integer(value: &Value) -> Result<()> {
    if matches!(value, Value::Number(_)) && value.as_i64().is_ok_and(|n| n.abs() < 1 << 31) {
        return Ok(());
    }
    bail!("the operand must be an integer below 2^31 in magnitude")
}

fn moderate(value: &Value) -> Result<()> {
    if let Value::Number(_) = value
        && value.as_f64().is_ok_and(|number| number.abs() <= LIMIT)
    {
        return Ok(());
    }
    bail!("the operand must be a number up to 2^53 in magnitude")
}

/// Whether `number` is an integer up to 2^53, or has a short binary fraction: then decimal and
/// binary arithmetic agree.
pub fn exact(value: &Value) -> bool {
    let Ok(number) = value.as_f64() else {
        return false;
    };
    number.abs() <= LIMIT && (number * 1024.0).fract() == 0.0 && {
        number.fract() == 0.0 || number.abs() < 1e9
    }
}

fn bounded(value: &Value, step: fn(f64, f64) -> f64) -> Result<()> {
    let items: Vec<&Value> = match value {
        Value::Array(items) => items.iter().collect(),
        Value::Set(items) => items.iter().collect(),
        other => bail!("operand 1 must be array or set but got {}", type_name(other)),
    };
    let mut total = 1.0;
    for item in items {
        let Value::Number(_) = item else {
            bail!("operand 1 must be numbers but got {}", type_name(item))
        };
        if !exact(item) {
            bail!("the number {item} is too large, or has a fraction that is not exact");
        }
        total = step(total, item.as_f64().unwrap_or(f64::INFINITY).abs().max(1.0));
    }
    if total > LIMIT {
        bail!("the result may exceed 2^53");
    }
    Ok(())
}

/// Numbers inside whose text is the same in both engines.
fn plain(value: &Value) -> Result<()> {
    match value {
        Value::Number(_) => {
            let number = value.as_f64().unwrap_or(f64::INFINITY);
            if value.as_i64().is_err() && !(1e-4..1e15).contains(&number.abs()) {
                bail!("the number {value} has more than one decimal form");
            }
        }
        Value::String(text) if text.contains(['\u{2028}', '\u{2029}', '<', '>', '&', '\u{7f}']) => {
            bail!("the text {value} has more than one form in JSON");
        }
        Value::Array(items) => items.iter().try_for_each(plain)?,
        Value::Set(items) => items.iter().try_for_each(plain)?,
        Value::Object(items) => items.iter().try_for_each(|(key, item)| {
            plain(key)?;
            plain(item)
        })?,
        _ => {}
    }
    Ok(())
}

/// A collection whose order is the same in both engines.
fn iterated(value: &Value) -> Result<()> {
    let Value::Set(items) = value else {
        return Ok(());
    };
    let mut kinds = (false, false);
    for item in items.iter() {
        kinds.0 |= matches!(item, Value::Object(_));
        kinds.1 |= matches!(item, Value::Set(_));
    }
    if kinds == (true, true) {
        bail!("a set that holds both objects and sets cannot be walked in order");
    }
    Ok(())
}

/// JSON text whose numbers mean the same in both engines.
fn json(value: &Value) -> Result<()> {
    let Value::String(text) = value else { bail!("operand 1 must be string") };
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(parsed) => json_numbers(&parsed),
        Err(_) => bail!("the text is no JSON"),
    }
}

fn json_numbers(value: &serde_json::Value) -> Result<()> {
    match value {
        serde_json::Value::Number(number) => numeral_text(&number.to_string()),
        serde_json::Value::Array(items) => items.iter().try_for_each(json_numbers),
        serde_json::Value::Object(items) => items.iter().try_for_each(|(name, item)| {
            if name.starts_with("$serde_json") {
                bail!("the name {name} is reserved");
            }
            json_numbers(item)
        }),
        _ => Ok(()),
    }
}

fn numeral(value: &Value) -> Result<()> {
    match value {
        Value::String(text) => numeral_text(text),
        _ => Ok(()),
    }
}

/// A number in its one usual form: an integer, or a decimal fraction of at most 15 digits.
pub fn numeral_text(text: &str) -> Result<()> {
    let (whole, fraction) = text.strip_prefix('-').unwrap_or(text).split_once('.').unzip();
    let whole = whole.unwrap_or_else(|| text.strip_prefix('-').unwrap_or(text));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || (whole.len() > 1 && whole.starts_with('0')) || text == "-0" {
        bail!("the number {text} is not written in its usual form");
    }
    let Some(fraction) = fraction else {
        return Ok(());
    };
    if !digits(fraction) || fraction.ends_with('0') || whole.len() + fraction.len() > 15 {
        bail!("the number {text} is not written in its usual form, or has more than 15 digits");
    }
    Ok(())
}

/// A version that both engines read in the same way.
fn version(value: &Value) -> Result<()> {
    let Value::String(text) = value else { bail!("operand must be string") };
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let parts: Vec<&str> = core.split('.').collect();
    let usual = |part: &&str| {
        !part.is_empty()
            && part.len() < 16
            && part.bytes().all(|b| b.is_ascii_digit())
            && (part.len() == 1 || !part.starts_with('0'))
    };
    if parts.len() != 3 || !parts.iter().all(usual) {
        bail!("{text:?} is no version of semver.org");
    }
    Ok(())
}
