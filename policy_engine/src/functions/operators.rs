//! Operators, as OPA defines them: order of types, and arithmetic without rounding.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use regorus::Value;

use super::guards::{LIMIT, exact};
use super::{Entry, type_name};

pub const ENTRIES: &[Entry] = &[
    ("__lt", 2, |v| Ok(Value::from(compare(&v[0], &v[1]).is_lt()))),
    ("__le", 2, |v| Ok(Value::from(compare(&v[0], &v[1]).is_le()))),
    ("__gt", 2, |v| Ok(Value::from(compare(&v[0], &v[1]).is_gt()))),
    ("__ge", 2, |v| Ok(Value::from(compare(&v[0], &v[1]).is_ge()))),
    ("__ne", 2, |v| Ok(Value::from(v[0] != v[1]))),
    ("__add", 2, |v| arithmetic("plus", v, |a, b| Some(a + b))),
    ("__sub", 2, subtract),
    ("__mul", 2, |v| arithmetic("mul", v, |a, b| Some(a * b))),
    ("__div", 2, |v| arithmetic("div", v, |a, b| (b != 0.0).then(|| a / b))),
    ("__mod", 2, |v| {
        let whole = |value: &Value| value.as_f64().is_ok_and(|number| number.fract() == 0.0);
        if !whole(&v[0]) || !whole(&v[1]) {
            bail!("modulo on floating-point number");
        }
        arithmetic("rem", v, |a, b| (b != 0.0).then(|| a % b))
    }),
    ("__in", 2, |v| Ok(Value::from(is_member(&v[0], &v[1])))),
    ("__in_at", 3, |v| Ok(Value::from(is_member_at(&v[0], &v[1], &v[2])))),
    ("__object", 1, object),
    ("count", 1, |v| match &v[0] {
        Value::String(text) => Ok(Value::from(text.chars().count())),
        Value::Array(items) => Ok(Value::from(items.len())),
        Value::Set(items) => Ok(Value::from(items.len())),
        Value::Object(items) => Ok(Value::from(items.len())),
        other => bail!(
            "operand 1 must be one of {{array, object, set, string}} but got {}",
            type_name(other)
        ),
    }),
    ("max", 1, |v| extreme(&v[0], Ordering::is_gt)),
    ("min", 1, |v| extreme(&v[0], Ordering::is_lt)),
    ("sort", 1, |v| {
        let mut items = items(&v[0])?;
        items.sort_by(compare);
        Ok(Value::from(items))
    }),
    ("object.subset", 2, subset),
];

fn rank(value: &Value) -> u8 {
    match value {
        Value::Undefined => 0,
        Value::Null => 1,
        Value::Bool(_) => 2,
        Value::Number(_) => 3,
        Value::String(_) => 4,
        Value::Array(_) => 5,
        Value::Object(_) => 6,
        Value::Set(_) => 7,
    }
}

/// OPA's order of all values.
pub fn compare(one: &Value, other: &Value) -> Ordering {
    match (one, other) {
        (Value::Array(a), Value::Array(b)) => sequence(a.iter(), b.iter()),
        (Value::Set(a), Value::Set(b)) => {
            let (a, b) = (sorted(a.iter().collect()), sorted(b.iter().collect()));
            sequence(a.into_iter(), b.into_iter())
        }
        (Value::Object(a), Value::Object(b)) => {
            let (keys, others) = (sorted(a.keys().collect()), sorted(b.keys().collect()));
            for (key, other_key) in keys.iter().zip(&others) {
                let order = compare(key, other_key);
                let order = order.then_with(|| match (a.get(key), b.get(other_key)) {
                    (Some(value), Some(other)) => compare(value, other),
                    _ => Ordering::Equal,
                });
                if order.is_ne() {
                    return order;
                }
            }
            keys.len().cmp(&others.len())
        }
        _ if rank(one) == rank(other) => one.cmp(other),
        _ => rank(one).cmp(&rank(other)),
    }
}

/// Values in OPA's order.
pub fn sorted(mut values: Vec<&Value>) -> Vec<&Value> {
    values.sort_by(|one, other| compare(one, other));
    values
}

fn sequence<'a>(
    one: impl Iterator<Item = &'a Value>,
    other: impl Iterator<Item = &'a Value>,
) -> Ordering {
    let (one, other): (Vec<_>, Vec<_>) = (one.collect(), other.collect());
    for (a, b) in one.iter().zip(&other) {
        let order = compare(a, b);
        if order.is_ne() {
            return order;
        }
    }
    one.len().cmp(&other.len())
}

fn items(value: &Value) -> Result<Vec<Value>> {
    match value {
        Value::Array(items) => Ok(items.iter().cloned().collect()),
        Value::Set(items) => Ok(items.iter().cloned().collect()),
        other => bail!("operand 1 must be array or set but got {}", type_name(other)),
    }
}

fn extreme(value: &Value, wins: fn(Ordering) -> bool) -> Result<Value> {
    let mut best: Option<Value> = None;
    for item in items(value)? {
        if best.as_ref().is_none_or(|best| wins(compare(&item, best))) {
            best = Some(item);
        }
    }
    Ok(best.unwrap_or(Value::Undefined))
}

fn subtract(values: &[Value]) -> Result<Value> {
    if let (Value::Set(one), Value::Set(other)) = (&values[0], &values[1]) {
        let left = one.iter().filter(|item| !other.contains(item)).cloned();
        return Ok(Value::from(left.collect::<BTreeSet<_>>()));
    }
    arithmetic("minus", values, |a, b| Some(a - b))
}

/// Numbers up to 2^53 and short binary fractions, for which OPA and floating point agree.
fn arithmetic(
    name: &str,
    values: &[Value],
    operation: fn(f64, f64) -> Option<f64>,
) -> Result<Value> {
    for (index, value) in values.iter().enumerate() {
        let Value::Number(_) = value else {
            bail!("{name}: operand {} must be number but got {}", index + 1, type_name(value));
        };
        if !exact(value) {
            bail!(
                "{name}: {value} is beyond 2^53, or is a fraction that is not exact in binary; \
                 such arithmetic is not supported"
            );
        }
    }
    let (one, other) = (values[0].as_f64()?, values[1].as_f64()?);
    let Some(result) = operation(one, other) else { bail!("{name}: divide by zero") };
    if result.fract() == 0.0 && result.abs() <= LIMIT {
        return Ok(Value::from(result as i64));
    }
    let result = Value::from(result);
    if !exact(&result) {
        bail!(
            "{name}: the result {result} is beyond 2^53, or is not exact in binary; such \
             arithmetic is not supported"
        );
    }
    Ok(result)
}

pub fn is_member(value: &Value, collection: &Value) -> bool {
    match collection {
        Value::Array(items) => items.iter().any(|item| item == value),
        Value::Set(items) => items.contains(value),
        Value::Object(items) => items.iter().any(|(_, item)| item == value),
        _ => false,
    }
}

fn is_member_at(key: &Value, value: &Value, collection: &Value) -> bool {
    match collection {
        Value::Array(items) => {
            let index = key.as_i64().ok().and_then(|index| usize::try_from(index).ok());
            index.and_then(|index| items.get(index)) == Some(value)
        }
        Value::Set(items) => key == value && items.contains(value),
        Value::Object(items) => items.get(key) == Some(value),
        _ => false,
    }
}

/// An object of pairs, whose keys must differ.
fn object(values: &[Value]) -> Result<Value> {
    let mut members = BTreeMap::new();
    for pair in items(&values[0])? {
        let pair = items(&pair)?;
        if members.insert(pair[0].clone(), pair[1].clone()).is_some() {
            bail!("an object has the key {} twice", pair[0]);
        }
    }
    Ok(Value::from(members))
}

fn subset(values: &[Value]) -> Result<Value> {
    let (whole, part) = (&values[0], &values[1]);
    let found = match (whole, part) {
        (Value::Array(whole), Value::Set(part)) => {
            part.iter().all(|item| whole.iter().any(|other| other == item))
        }
        (Value::Object(_), Value::Object(_))
        | (Value::Set(_), Value::Set(_))
        | (Value::Array(_), Value::Array(_)) => covers(whole, part),
        _ => bail!("both arguments must be of the same type, or array and set"),
    };
    Ok(Value::from(found))
}

/// Whether `whole` contains `part`; values inside objects are compared in the same way.
fn covers(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(key, value)| whole.get(key).is_some_and(|found| covers(found, value)))
        }
        (Value::Set(whole), Value::Set(part)) => part.iter().all(|item| whole.contains(item)),
        (Value::Array(whole), Value::Array(part)) => {
            let (whole, part): (Vec<_>, Vec<_>) = (whole.iter().collect(), part.iter().collect());
            part.is_empty() || whole.windows(part.len()).any(|window| window == part)
        }
        _ => whole == part,
    }
}
