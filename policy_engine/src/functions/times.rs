//! `time.*` of UTC, on the proleptic Gregorian calendar. There is no clock and no time zone data.

use anyhow::{Result, anyhow, bail};
use regorus::Value;

use super::{Entry, string, type_name};

pub const ENTRIES: &[Entry] = &[
    ("time.parse_rfc3339_ns", 1, |v| Ok(Value::from(parse_rfc3339(string(v, 0)?)?))),
    ("time.parse_duration_ns", 1, |v| Ok(Value::from(parse_duration(string(v, 0)?)?))),
    ("time.add_date", 4, add_date),
    ("time.date", 1, |v| {
        let t = Time::of(instant(v, 0)?);
        Ok(Value::from(vec![Value::from(t.year), Value::from(t.month), Value::from(t.day)]))
    }),
    ("time.clock", 1, |v| {
        let t = Time::of(instant(v, 0)?);
        Ok(Value::from(vec![Value::from(t.hour), Value::from(t.minute), Value::from(t.second)]))
    }),
    ("time.weekday", 1, |v| {
        let days = instant(v, 0)?.div_euclid(DAY);
        Ok(Value::from(WEEKDAYS[(days + 4).rem_euclid(7) as usize])) // 1970-01-01: a Thursday
    }),
    ("time.diff", 2, difference),
    ("time.format", 1, format),
];

const SECOND: i64 = 1_000_000_000;
const DAY: i64 = 86_400 * SECOND;
const WEEKDAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

struct Time {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    nanosecond: i64,
}

impl Time {
    fn of(ns: i64) -> Self {
        let (year, month, day) = civil(ns.div_euclid(DAY));
        let rest = ns.rem_euclid(DAY);
        let seconds = rest / SECOND;
        Self {
            year,
            month,
            day,
            hour: seconds / 3600,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            nanosecond: rest % SECOND,
        }
    }
}

/// Days since 1970-01-01 of a date, whose day may be outside its month.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year + (month - 1).div_euclid(12);
    let month = (month - 1).rem_euclid(12) + 1;
    // Years are counted from March, so that the leap day is the last day of one.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leaps = y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400);
    365 * y + leaps + (153 * m + 2) / 5 + day - 1 - 719_468
}

/// Date of a day since 1970-01-01.
fn civil(day: i64) -> (i64, i64, i64) {
    let day = day + 719_468; // since 0000-03-01
    let (cycle, rest) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (rest - rest / 1460 + rest / 36_524 - rest / 146_096) / 365;
    let of_year = rest - (365 * year + year / 4 - year / 100);
    let m = (5 * of_year + 2) / 153;
    let (month, carry) = if m < 10 { (m + 3, 0) } else { (m - 9, 1) };
    (cycle * 400 + year + carry, month, of_year - (153 * m + 2) / 5 + 1)
}

/// Nanoseconds since the epoch in an operand: a number, or `[number, "UTC"]`.
fn instant(values: &[Value], index: usize) -> Result<i64> {
    Ok(instant_and_layout(&values[index])?.0)
}

fn instant_and_layout(value: &Value) -> Result<(i64, Option<&str>)> {
    let (number, zone, layout) = match value {
        Value::Array(parts) => (parts.get(0), parts.get(1), parts.get(2)),
        Value::Number(_) => (Some(value), None, None),
        other => bail!("operand 1 must be number or array but got {}", type_name(other)),
    };
    match zone {
        None => {}
        Some(Value::String(name)) if name.is_empty() || name.as_ref() == "UTC" => {}
        Some(_) => bail!("only the time zone UTC is available"),
    }
    let layout = match layout {
        None => None,
        Some(Value::String(layout)) => Some(layout.as_ref()),
        Some(other) => bail!("operand 1 must be string but got {}", type_name(other)),
    };
    let number = number.ok_or_else(|| anyhow!("operand 1 must be number but got nothing"))?;
    Ok((number.as_i64().map_err(|_| anyhow!("timestamp too big"))?, layout))
}

fn add_date(values: &[Value]) -> Result<Value> {
    let ns = instant(values, 0)?;
    let [years, months, more] = [1, 2, 3].map(|index| values[index].as_i64());
    let (years, months, more) = (years?, months?, more?);
    if [years, months, more].iter().any(|part| part.abs() > 1_000_000) {
        bail!("time outside of valid range");
    }
    let t = Time::of(ns);
    let day = days(t.year + years, t.month + months, t.day + more);
    let of_day = ns.rem_euclid(DAY);
    let result = i128::from(day) * i128::from(DAY) + i128::from(of_day);
    Ok(Value::from(i64::try_from(result).map_err(|_| anyhow!("time outside of valid range"))?))
}

/// Years, months, days, hours, minutes and seconds from the earlier to the later instant.
fn difference(values: &[Value]) -> Result<Value> {
    let (one, other) = (instant(values, 0)?, instant(values, 1)?);
    let (from, to) = (Time::of(one.min(other)), Time::of(one.max(other)));
    let month_length = days(from.year, from.month + 1, 1) - days(from.year, from.month, 1);
    let mut parts = [
        to.year - from.year,
        to.month - from.month,
        to.day - from.day,
        to.hour - from.hour,
        to.minute - from.minute,
        to.second - from.second,
    ];
    for (index, size) in [(5, 60), (4, 60), (3, 24), (2, month_length), (1, 12)] {
        if parts[index] < 0 {
            parts[index] += size;
            parts[index - 1] -= 1;
        }
    }
    Ok(Value::from(parts.map(Value::from).to_vec()))
}

/// RFC 3339 with as many digits of a second as it has; other layouts are not available.
fn format(values: &[Value]) -> Result<Value> {
    let (ns, layout) = instant_and_layout(&values[0])?;
    let t = Time::of(ns);
    let fraction = match layout {
        None | Some("" | "RFC3339Nano") if t.nanosecond > 0 => {
            format!(".{:09}", t.nanosecond).trim_end_matches('0').to_owned()
        }
        None | Some("" | "RFC3339Nano" | "RFC3339") => String::new(),
        Some(_) => bail!("only the layouts RFC3339 and RFC3339Nano are available"),
    };
    Ok(Value::from(format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{fraction}Z",
        t.year, t.month, t.day, t.hour, t.minute, t.second
    )))
}

/// Nanoseconds since the epoch of `2024-03-13T00:00:00Z`; the zone may be an offset.
fn parse_rfc3339(text: &str) -> Result<i64> {
    let invalid = || anyhow!("not a time of RFC 3339: {text:?}");
    let bytes = text.as_bytes();
    if bytes.len() < 20 || !text.is_ascii() {
        return Err(invalid());
    }
    let number = |from: usize, to: usize| -> Result<i64> {
        let digits = &text[from..to];
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(invalid());
        }
        digits.parse().map_err(|_| invalid())
    };
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.iter().any(|&(at, wanted)| bytes[at] != wanted) {
        return Err(invalid());
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let (fraction, zone) = split_fraction(&text[19..]).ok_or_else(invalid)?;
    let offset = offset_seconds(zone).ok_or_else(invalid)?;
    let month_length = days(year, month + 1, 1) - days(year, month, 1);
    if !(1..=12).contains(&month) || !(1..=month_length).contains(&day) {
        return Err(invalid());
    }
    if hour > 23 || minute > 59 || second > 59 {
        return Err(invalid());
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
    let ns = i128::from(seconds) * i128::from(SECOND) + i128::from(fraction);
    i64::try_from(ns).map_err(|_| anyhow!("time outside of valid range"))
}

/// Nanoseconds of a fraction like `.25` (further digits are cut), and what follows it.
fn split_fraction(text: &str) -> Option<(i64, &str)> {
    let Some(rest) = text.strip_prefix(['.', ',']) else {
        return Some((0, text));
    };
    let end = rest.bytes().position(|byte| !byte.is_ascii_digit())?;
    if end == 0 {
        return None;
    }
    let digits: String = rest[..end].chars().chain("000000000".chars()).take(9).collect();
    Some((digits.parse().ok()?, &rest[end..]))
}

fn offset_seconds(zone: &str) -> Option<i64> {
    let bytes = zone.as_bytes();
    match bytes {
        b"Z" => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let digits = [h1, h2, m1, m2];
            if !digits.iter().all(|digit| digit.is_ascii_digit()) {
                return None;
            }
            let [h1, h2, m1, m2] = digits.map(|digit| i64::from(digit - b'0'));
            let (hours, minutes) = (h1 * 10 + h2, m1 * 10 + m2);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = hours * 3600 + minutes * 60;
            Some(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

const UNITS: &[(&str, i64)] = &[
    ("ns", 1),
    ("us", 1000),
    ("\u{b5}s", 1000),  // micro sign
    ("\u{3bc}s", 1000), // Greek letter mu
    ("ms", 1_000_000),
    ("s", SECOND),
    ("m", 60 * SECOND),
    ("h", 3600 * SECOND),
];

/// Nanoseconds of a duration like `1h15m30.5s`, as Go's `time.ParseDuration` reads it.
fn parse_duration(text: &str) -> Result<i64> {
    let invalid = || anyhow!("invalid duration {text:?}");
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let whole = digits(&mut rest);
        let fraction = match rest.strip_prefix('.') {
            Some(after) => {
                rest = after;
                digits(&mut rest)
            }
            None => "",
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
        let (unit, after) = rest.split_at(end);
        rest = after;
        let (_, size) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(invalid)?;
        let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        total += i128::from(whole) * i128::from(*size) + i128::from(part(fraction, *size));
        if total > 1 << 63 {
            return Err(invalid());
        }
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

fn digits<'a>(rest: &mut &'a str) -> &'a str {
    let end = rest.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, after) = rest.split_at(end);
    *rest = after;
    digits
}

/// `0.<digits>` of a unit: Go multiplies as floating point, and ignores digits beyond an int64.
fn part(digits: &str, unit: i64) -> i64 {
    let (mut value, mut scale) = (0i64, 1f64);
    for digit in digits.bytes() {
        let Some(next) = value.checked_mul(10).and_then(|v| v.checked_add(i64::from(digit - b'0')))
        else {
            break;
        };
        value = next;
        scale *= 10.0;
    }
    (value as f64 * (unit as f64 / scale)) as i64
}
