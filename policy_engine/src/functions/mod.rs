//! Functions that OPA has and the engine lacks, and the engine's own where they differ from OPA's.

mod digests;
pub mod guards;
mod networks;
pub mod operators;
mod patterns;
mod texts;
mod times;
pub mod trace;

use anyhow::{Result, bail};
use regorus::{Engine, Value};

type Function = fn(&[Value]) -> Result<Value>;

/// Name, number of operands, implementation.
pub type Entry = (&'static str, u8, Function);

pub fn entries() -> impl Iterator<Item = &'static Entry> {
    [digests::ENTRIES, guards::ENTRIES, networks::ENTRIES, operators::ENTRIES, texts::ENTRIES]
        .into_iter()
        .chain([times::ENTRIES, trace::ENTRIES])
        .flatten()
}

pub fn add(engine: &mut Engine) -> Result<()> {
    for (name, operands, function) in entries() {
        let call = move |values: Vec<Value>| {
            function(&values).map_err(|error| match name.starts_with("__") {
                true => error, // guards and operators have no names of their own
                false => anyhow::anyhow!("{name}: {error}"),
            })
        };
        engine.add_extension((*name).to_owned(), *operands, Box::new(call))?;
    }
    Ok(())
}

fn string(values: &[Value], index: usize) -> Result<&str> {
    match &values[index] {
        Value::String(text) => Ok(text),
        other => bail!("operand {} must be string but got {}", index + 1, type_name(other)),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Set(_) => "set",
        Value::Object(_) => "object",
        Value::Undefined => "undefined",
    }
}
