//! Records which values a policy compares with which, for a report to the operator.
//!
//! Only policies that were compiled with `trace` call this; see `rewrite::Writer::compared`.

use std::cell::RefCell;

use anyhow::{Result, bail};
use regorus::Value;
use serde_json::json;

use super::Entry;
use super::operators::{compare, is_member, sorted};

pub const ENTRIES: &[Entry] = &[("__compared", 4, compared)];

/// Comparisons that are recorded for one evaluation.
const ROWS: usize = 500;

/// Length of each value's JSON, in bytes; twelve measurements of 96 digits fit.
const VALUE_BYTES: usize = 2048;

#[derive(Default)]
struct Trace {
    rows: Vec<serde_json::Value>,
    total: usize,
}

thread_local! {
    static TRACE: RefCell<Trace> = const { RefCell::new(Trace { rows: Vec::new(), total: 0 }) };
}

pub fn begin() {
    TRACE.take();
}

/// Members of an answer: the first comparisons, and how many there were.
pub fn recorded() -> String {
    let trace = TRACE.take();
    format!(
        ",\"comparisons\":{},\"comparisons_made\":{}",
        serde_json::Value::from(trace.rows),
        trace.total
    )
}

/// Operator, line, and both sides.
fn compared(values: &[Value]) -> Result<Value> {
    let [Value::String(operator), line, left, right] = values else { bail!("no comparison") };
    let result = match operator.as_ref() {
        "==" => left == right,
        "!=" => left != right,
        "<" => compare(left, right).is_lt(),
        "<=" => compare(left, right).is_le(),
        ">" => compare(left, right).is_gt(),
        ">=" => compare(left, right).is_ge(),
        "in" => is_member(left, right),
        other => bail!("{other} is no comparison"),
    };
    TRACE.with_borrow_mut(|trace| {
        trace.total += 1;
        if trace.rows.len() < ROWS {
            trace.rows.push(json!({
                "line": line.as_u64().unwrap_or_default(),
                "operator": operator.as_ref(),
                "left": brief(left),
                "right": brief(right),
                "result": result,
            }));
        }
    });
    Ok(Value::from(result))
}

/// The JSON of a value; one that is long is cut, and ends with `...`.
fn brief(value: &Value) -> String {
    let mut text = String::new();
    append(value, &mut text);
    if text.len() > VALUE_BYTES {
        let end = (0..=VALUE_BYTES).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        text.push_str("...");
    }
    text
}

fn append(value: &Value, text: &mut String) {
    match value {
        Value::Array(items) => append_list(items.iter(), text),
        Value::Set(items) => append_list(sorted(items.iter().collect()).into_iter(), text),
        Value::Object(items) => {
            text.push('{');
            for (index, (key, item)) in items.iter_sorted().enumerate() {
                if text.len() > VALUE_BYTES {
                    return;
                }
                text.push_str(if index > 0 { ", " } else { "" });
                append(key, text);
                text.push_str(": ");
                append(item, text);
            }
            text.push('}');
        }
        other => text.push_str(&other.to_json_str().unwrap_or_default()),
    }
}

fn append_list<'a>(items: impl Iterator<Item = &'a Value>, text: &mut String) {
    text.push('[');
    for (index, item) in items.enumerate() {
        if text.len() > VALUE_BYTES {
            return;
        }
        text.push_str(if index > 0 { ", " } else { "" });
        append(item, text);
    }
    text.push(']');
}
