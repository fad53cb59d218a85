//! Functions of strings that differ between the engine and OPA.

use anyhow::{Result, anyhow, bail};
use regorus::Value;

use super::{Entry, string, type_name};

pub const ENTRIES: &[Entry] = &[
    ("lower", 1, |v| cased(string(v, 0)?, |c| c.to_lowercase().collect())),
    ("upper", 1, |v| cased(string(v, 0)?, |c| c.to_uppercase().collect())),
    ("urlquery.encode", 1, |v| Ok(Value::from(encode_query(string(v, 0)?)))),
    ("urlquery.decode", 1, |v| Ok(Value::from(decode_query(string(v, 0)?)?))),
    ("sprintf", 2, sprintf),
    ("strings.count", 2, |v| Ok(Value::from(string(v, 0)?.matches(string(v, 1)?).count() as u64))),
    ("strings.replace_n", 2, |v| replace(&v[0], string(v, 1)?)),
];

/// Character by character, as Go does; where Unicode makes several of one, Go has another rule.
fn cased(text: &str, change: fn(char) -> Vec<char>) -> Result<Value> {
    let mut result = String::with_capacity(text.len());
    for character in text.chars() {
        match change(character).as_slice() {
            [one] => result.push(*one),
            _ => bail!("the letter {character:?} has no single letter of the other case"),
        }
    }
    Ok(Value::from(result))
}

/// In one pass: what was replaced is not replaced again. Of several texts that begin at a place,
/// the first in their order is replaced.
fn replace(replacements: &Value, text: &str) -> Result<Value> {
    let Value::Object(replacements) = replacements else {
        bail!("operand 1 must be object but got {}", type_name(replacements))
    };
    let mut pairs = Vec::new();
    for pair in replacements.iter() {
        match pair {
            (Value::String(old), Value::String(new)) if !old.is_empty() => pairs.push((old, new)),
            _ => bail!("operand 1 must have texts, and texts that are not empty to replace"),
        }
    }
    pairs.sort();
    let (mut result, mut rest) = (String::new(), text);
    while let Some(character) = rest.chars().next() {
        match pairs.iter().find(|(old, _)| rest.starts_with(&***old)) {
            Some((old, new)) => {
                result.push_str(new);
                rest = &rest[old.len()..];
            }
            None => {
                result.push(character);
                rest = &rest[character.len_utf8()..];
            }
        }
    }
    Ok(Value::from(result))
}

fn encode_query(text: &str) -> String {
    let mut result = String::new();
    for byte in text.bytes() {
        match byte {
            b' ' => result.push('+'),
            b'-' | b'_' | b'.' | b'~' => result.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => result.push(char::from(byte)),
            _ => result.push_str(&format!("%{byte:02X}")),
        }
    }
    result
}

fn decode_query(text: &str) -> Result<String> {
    let mut result = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        result.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || {
                    let digit = bytes.next().and_then(|byte| char::from(byte).to_digit(16));
                    digit.ok_or_else(|| anyhow!("invalid URL escape"))
                };
                (digit()? * 16 + digit()?) as u8
            }
            other => other,
        });
    }
    String::from_utf8(result).map_err(|_| anyhow!("the decoded text is not UTF-8"))
}

/// `%v`, `%s`, `%d`, `%t` and `%%`; the other verbs and all flags of Go are not available.
fn sprintf(values: &[Value]) -> Result<Value> {
    let format = string(values, 0)?;
    let Value::Array(operands) = &values[1] else {
        bail!("operand 2 must be array but got {}", type_name(&values[1]))
    };
    let mut operands = operands.iter();
    let mut result = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            result.push(character);
            continue;
        }
        let verb = characters.next();
        if verb == Some('%') {
            result.push('%');
            continue;
        }
        let mut operand = || operands.next().ok_or_else(|| anyhow!("there are too few values"));
        match verb {
            Some('v' | 's') => show(operand()?, verb == Some('s'), &mut result)?,
            Some('d') => match operand()? {
                value @ Value::Number(_) if value.as_i64().is_ok() => {
                    result.push_str(&value.to_string());
                }
                value => bail!("%d: {value} is no integer of 64 bits"),
            },
            Some('t') => match operand()? {
                Value::Bool(value) => result.push_str(&value.to_string()),
                value => bail!("%t: {value} is no boolean"),
            },
            other => bail!(
                "%{}: only %v, %s, %d, %t and %% are available",
                other.map(String::from).unwrap_or_default()
            ),
        }
    }
    if operands.next().is_some() {
        bail!("there are more values than verbs");
    }
    Ok(Value::from(result))
}

fn show(value: &Value, as_string: bool, result: &mut String) -> Result<()> {
    match value {
        Value::String(text) => result.push_str(text),
        Value::Number(_) if as_string => bail!("%s of a number is not available: use %v"),
        _ => term(value, result)?,
    }
    Ok(())
}

/// The text of a term in Rego.
fn term(value: &Value, result: &mut String) -> Result<()> {
    match value {
        Value::Number(_) => {
            let number = value.as_f64()?;
            if value.as_i64().is_err() && !(1e-4..1e15).contains(&number.abs()) {
                bail!("the number {value} has more than one decimal form");
            }
            result.push_str(&value.to_string());
        }
        Value::String(text) => {
            let usual = |c: char| c.is_alphanumeric() || c == ' ' || c.is_ascii_graphic();
            if !text.chars().all(usual) {
                bail!("a text inside a value has characters whose quoting is not supported");
            }
            result.push_str(&serde_json::to_string(text.as_ref())?);
        }
        Value::Array(items) => sequence(items.iter(), "[", "]", result)?,
        Value::Set(items) if items.is_empty() => result.push_str("set()"),
        Value::Set(items) => {
            let items = super::operators::sorted(items.iter().collect());
            sequence(items.into_iter(), "{", "}", result)?;
        }
        Value::Object(items) => {
            result.push('{');
            let mut entries: Vec<_> = items.iter().collect();
            entries.sort_by(|one, other| super::operators::compare(one.0, other.0));
            for (index, (key, item)) in entries.into_iter().enumerate() {
                if index > 0 {
                    result.push_str(", ");
                }
                term(key, result)?;
                result.push_str(": ");
                term(item, result)?;
            }
            result.push('}');
        }
        other => result.push_str(&other.to_string()),
    }
    Ok(())
}

fn sequence<'a>(
    items: impl Iterator<Item = &'a Value>,
    open: &str,
    close: &str,
    result: &mut String,
) -> Result<()> {
    result.push_str(open);
    for (index, item) in items.enumerate() {
        if index > 0 {
            result.push_str(", ");
        }
        term(item, result)?;
    }
    result.push_str(close);
    Ok(())
}
