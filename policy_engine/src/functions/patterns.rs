//! Regular expressions of Go (RE2), translated for the engine's, which have other classes.

use anyhow::{Result, bail};

const MAX_REPEAT: u32 = 1000;

/// The pattern that matches in the engine what `pattern` matches in OPA.
///
/// Fails where there is none, or where Go does not accept the pattern.
pub fn translate(pattern: &str) -> Result<String> {
    let mut translator = Translator { rest: pattern, out: String::new(), repeated: true };
    while let Some(next) = translator.next() {
        translator.one(next)?;
    }
    if let Err(error) = regex::Regex::new(&translator.out) {
        let text = error.to_string();
        bail!("the pattern is not supported: {}", text.lines().last().unwrap_or_default());
    }
    Ok(translator.out)
}

struct Translator<'a> {
    rest: &'a str,
    out: String,
    /// Whether a repetition cannot follow: at the beginning, and after another one.
    repeated: bool,
}

impl Translator<'_> {
    fn next(&mut self) -> Option<char> {
        let next = self.rest.chars().next()?;
        self.rest = &self.rest[next.len_utf8()..];
        Some(next)
    }

    fn taken(&mut self, prefix: &str) -> bool {
        let rest = self.rest.strip_prefix(prefix);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn one(&mut self, next: char) -> Result<()> {
        match next {
            '\\' => self.escape()?,
            '[' => self.class()?,
            '*' | '+' | '?' => return self.repetition(&next.to_string()),
            '{' => {
                if let Some(counts) = self.counts()? {
                    return self.repetition(&counts);
                }
                self.out.push_str("\\{");
            }
            '}' => self.out.push_str("\\}"),
            ']' => self.out.push_str("\\]"),
            '(' => {
                self.group()?;
                self.repeated = true;
                return Ok(());
            }
            '|' => {
                self.out.push('|');
                self.repeated = true;
                return Ok(());
            }
            other => self.out.push(other),
        }
        self.repeated = false;
        Ok(())
    }

    fn repetition(&mut self, operator: &str) -> Result<()> {
        if self.repeated {
            bail!("the pattern repeats nothing, or a repetition");
        }
        self.out.push_str(operator);
        if self.taken("?") {
            self.out.push('?');
        }
        self.repeated = true;
        Ok(())
    }

    /// `{2}`, `{2,}` or `{2,3}` after the brace; None where it is no repetition.
    fn counts(&mut self) -> Result<Option<String>> {
        let Some(end) = self.rest.find('}') else {
            return Ok(None);
        };
        let inner = &self.rest[..end];
        let (low, high) = inner.split_once(',').unwrap_or((inner, inner));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(low) || !(high.is_empty() || digits(high)) {
            return Ok(None);
        }
        for part in [low, high] {
            if !part.is_empty() && part.parse::<u32>().map_or(true, |n| n > MAX_REPEAT) {
                bail!("the pattern repeats more than {MAX_REPEAT} times");
            }
        }
        let text = format!("{{{inner}}}");
        self.rest = &self.rest[end + 1..];
        Ok(Some(text))
    }

    fn group(&mut self) -> Result<()> {
        self.out.push('(');
        if !self.taken("?") {
            return Ok(());
        }
        self.out.push('?');
        if self.taken("P<") || self.taken("<") {
            self.out.push_str("P<");
            return Ok(());
        }
        loop {
            match self.next() {
                Some(end @ (':' | ')')) => {
                    self.out.push(end);
                    return Ok(());
                }
                Some(flag @ ('i' | 'm' | 's' | 'U' | '-')) => self.out.push(flag),
                _ => bail!("the pattern has a group that is not supported"),
            }
        }
    }

    fn escape(&mut self) -> Result<()> {
        let Some(next) = self.next() else { bail!("the pattern ends in a backslash") };
        match next {
            'd' => self.out.push_str("[0-9]"),
            'D' => self.out.push_str("[^0-9]"),
            'w' => self.out.push_str("[0-9A-Za-z_]"),
            'W' => self.out.push_str("[^0-9A-Za-z_]"),
            's' => self.out.push_str("[\\t\\n\\x0C\\r ]"),
            'S' => self.out.push_str("[^\\t\\n\\x0C\\r ]"),
            'b' => self.out.push_str("(?-u:\\b)"),
            'A' | 'z' => self.out.extend(['\\', next]),
            _ => self.character(next)?,
        }
        Ok(())
    }

    /// An escape that is allowed inside a class, too.
    fn character(&mut self, next: char) -> Result<()> {
        match next {
            'a' => self.out.push_str("\\x07"),
            'f' => self.out.push_str("\\x0C"),
            't' | 'n' | 'r' | 'v' => self.out.extend(['\\', next]),
            'p' | 'P' | 'x' => {
                self.out.extend(['\\', next]);
                if self.taken("{") {
                    let Some(end) = self.rest.find('}') else { bail!("the pattern lacks a }}") };
                    self.out.push_str(&format!("{{{}}}", &self.rest[..end]));
                    self.rest = &self.rest[end + 1..];
                } else {
                    let digits = if next == 'x' { 2 } else { 1 };
                    for _ in 0..digits {
                        let Some(digit) = self.next() else { bail!("the pattern ends early") };
                        self.out.push(digit);
                    }
                }
            }
            _ if next.is_ascii_punctuation() && next != '<' && next != '>' => {
                self.out.extend(['\\', next]);
            }
            _ => bail!("the pattern has the escape \\{next}, which is not supported"),
        }
        Ok(())
    }

    fn class(&mut self) -> Result<()> {
        self.out.push('[');
        if self.taken("^") {
            self.out.push('^');
        }
        let mut first = true;
        loop {
            let Some(next) = self.next() else { bail!("the pattern lacks a ]") };
            match next {
                ']' if !first => break,
                '[' => match self.rest.find(":]") {
                    Some(end) if self.rest.starts_with(':') => {
                        self.out.push_str(&format!("[{}:]", &self.rest[..end]));
                        self.rest = &self.rest[end + 2..];
                    }
                    _ => self.out.push_str("\\["),
                },
                '\\' => {
                    let Some(next) = self.next() else { bail!("the pattern ends in a backslash") };
                    match next {
                        'd' => self.out.push_str("0-9"),
                        'w' => self.out.push_str("0-9A-Za-z_"),
                        's' => self.out.push_str("\\t\\n\\x0C\\r "),
                        _ => self.character(next)?,
                    }
                }
                '&' | '~' | ']' => self.out.extend(['\\', next]),
                '-' if self.rest.starts_with('-') => bail!("the pattern has -- in a class"),
                other => self.out.push(other),
            }
            first = false;
        }
        self.out.push(']');
        Ok(())
    }
}
