//! A compiled policy: which syntax it is written in, what it may call, and what it answers.

use std::num::{NonZeroU32, NonZeroUsize};

use regorus::{Engine, PolicyLengthConfig, Value};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::functions::{self, operators::sorted, trace};
use crate::rewrite::{self, Globals};
use crate::syntax::{Expr, Head, Module, Parsed, Rule};

/// What `compile` takes.
#[derive(Deserialize)]
pub struct Request<'a> {
    policy: String,
    #[serde(borrow)]
    data: &'a RawValue,
    /// Further modules, and a query instead of `data.policy`: for OPA's conformance cases.
    #[serde(default)]
    modules: Vec<String>,
    #[serde(default)]
    query: Option<String>,
    #[serde(default)]
    v0: Option<bool>,
    /// Whether a failing function is undefined, as OPA has it, instead of an error.
    #[serde(default)]
    lenient: bool,
    /// Whether the answers of `evaluate` also list which values were compared with which.
    #[serde(default)]
    trace: bool,
}

pub struct Policy {
    engine: Engine,
    data: Value,
    v0: bool,
    trace: bool,
    rules: serde_json::Value,
    query: Option<String>,
}

const PACKAGE: &str = "data.policy";

/// Compiles as Rego v1 and, where that does not parse, as Rego v0: what parses as v1 is v1.
pub fn compile(request: &[u8]) -> Result<Policy, String> {
    let request: Request = serde_json::from_str(json(request)?).map_err(|e| e.to_string())?;
    let (parsed, v0) = match request.v0 {
        Some(v0) => (parse(&request, v0)?, v0),
        None => match parse(&request, false) {
            Ok(parsed) => (parsed, false),
            Err(error) if says_v1(&request.policy) => return Err(error),
            Err(error) => (parse(&request, true).map_err(|older| choose(error, older))?, true),
        },
    };
    if request.query.is_none() && !parsed.iter().any(|each| has_verdict(&each.ast)) {
        return Err("the policy has no rule `allow` in `package policy`".to_owned());
    }
    let mut engine = engine(false);
    for text in rewritten(&request, &parsed)? {
        engine.add_policy("policy".to_owned(), text).map_err(text_of)?;
    }
    let rules = parsed.iter().flat_map(|each| definitions(&each.ast)).collect();
    drop(parsed);
    let data = Value::from_json_str(request.data.get()).map_err(text_of)?;
    engine.add_data(data.clone()).map_err(text_of)?;
    engine.set_strict_builtin_errors(!request.lenient);
    functions::add(&mut engine).map_err(text_of)?;
    Ok(Policy { engine, data, v0, trace: request.trace, rules, query: request.query })
}

/// The error that helps: that of v0 where v1 only misses its keywords.
fn choose(v1: String, v0: String) -> String {
    if v1.contains("keyword is required") { v0 } else { v1 }
}

/// JSON text of the host, without the name that marks numbers inside the JSON library.
fn json(text: &[u8]) -> Result<&str, String> {
    const RESERVED: &str = "$serde_json::private::Number";
    let text = std::str::from_utf8(text).map_err(|e| e.to_string())?;
    if text.contains(RESERVED) {
        return Err(format!("the text {RESERVED} is reserved"));
    }
    Ok(text)
}

/// The modules with their source texts, in the engine's order.
fn sources<'r>(request: &'r Request<'_>) -> impl Iterator<Item = &'r String> {
    std::iter::once(&request.policy).chain(&request.modules).filter(|module| !module.is_empty())
}

fn engine(v0: bool) -> Engine {
    let mut engine = Engine::new();
    engine.set_rego_v0(v0);
    engine.set_policy_length_config(LENGTHS);
    engine
}

/// Limits of a text; the host's are lower.
const LENGTHS: PolicyLengthConfig = PolicyLengthConfig {
    max_col: NonZeroU32::new(4 << 20).unwrap(),
    max_file_bytes: NonZeroUsize::new(4 << 20).unwrap(),
    max_lines: NonZeroUsize::new(1 << 20).unwrap(),
};

/// The syntax trees. Places in errors are named `source`, those in rewritten texts `policy`.
fn parse(request: &Request<'_>, v0: bool) -> Result<Vec<Parsed>, String> {
    let mut engine = engine(v0);
    for module in sources(request) {
        engine.add_policy("source".to_owned(), module.clone()).map_err(text_of)?;
    }
    let tree = engine.get_ast_as_json().map_err(text_of)?;
    serde_json::from_str(&tree).map_err(|error| format!("the policy is nested too deeply: {error}"))
}

fn has_verdict(module: &Module) -> bool {
    let named = |rule: &Rule| match rule {
        Rule::Spec { head: Head::Func { .. }, .. } => false,
        Rule::Spec { head, .. } => head.reference().root() == Some("allow"),
        Rule::Default { refr, args, .. } => args.is_empty() && refr.root() == Some("allow"),
    };
    rewrite::package(module).as_deref() == Ok(PACKAGE) && module.rules.iter().any(named)
}

/// Each definition of a rule in `package policy`, in their order. The path of a rule with a computed
/// last part ends before this part.
fn definitions(module: &Module) -> Vec<serde_json::Value> {
    if rewrite::package(module).as_deref() != Ok(PACKAGE) {
        return Vec::new();
    }
    let described = |rule: &Rule| {
        let (reference, line, function) = match rule {
            Rule::Spec { span, head, .. } => {
                (head.reference(), span.line, matches!(head, Head::Func { .. }))
            }
            Rule::Default { span, refr, args, .. } => (refr, span.line, !args.is_empty()),
        };
        let path = reference.path().or_else(|| match reference {
            Expr::RefBrack { refr, .. } => refr.path(),
            _ => None,
        });
        serde_json::json!({ "path": path, "line": line, "function": function })
    };
    module.rules.iter().map(described).collect()
}

fn rewritten(request: &Request<'_>, parsed: &[Parsed]) -> Result<Vec<String>, String> {
    let mut globals = Globals::default();
    for each in parsed {
        globals.add(&each.ast)?;
    }
    sources(request)
        .zip(parsed)
        .map(|(source, each)| rewrite::rewrite(source, &each.ast, &globals, request.trace))
        .collect()
}

/// Whether the module imports `rego.v1`: then an error in it is no reason to read it as v0.
fn says_v1(policy: &str) -> bool {
    policy.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("import") && words.next() == Some("rego.v1")
    })
}

impl Policy {
    /// JSON of `{"syntax": "v1" or "v0", "rules": [{"path", "line", "function"}, ...]}`.
    pub fn description(&self) -> String {
        let syntax = if self.v0 { "v0" } else { "v1" };
        serde_json::json!({ "syntax": syntax, "rules": self.rules }).to_string()
    }

    pub fn evaluate(&mut self, input: &[u8]) -> Result<String, String> {
        if let Some(query) = self.query.clone() {
            return self.results(query, input);
        }
        self.set_input(input)?;
        trace::begin();
        let results = self.engine.eval_query(PACKAGE.to_owned(), false).map_err(text_of)?;
        let document = match results.result.as_slice() {
            [] => Value::new_object(),
            [only] if only.expressions.len() == 1 => only.expressions[0].value.clone(),
            _ => return Err("the policy has more than one answer".to_owned()),
        };
        let mut text = String::from("{\"document\":");
        write(&document, &mut text)?;
        if self.trace {
            text.push_str(&trace::recorded());
        }
        text.push('}');
        Ok(text)
    }

    /// Bindings, and values of the expressions, of each result.
    fn results(&mut self, query: String, input: &[u8]) -> Result<String, String> {
        if !input.is_empty() {
            self.set_input(input)?;
        }
        let results = self.engine.eval_query(query, false).map_err(text_of)?;
        let rows: Vec<_> = results
            .result
            .iter()
            .map(|row| {
                (&row.bindings, row.expressions.iter().map(|e| &e.value).collect::<Vec<_>>())
            })
            .collect();
        let rows = serde_json::to_string(&rows).map_err(|e| e.to_string())?;
        Ok(format!("{{\"results\":{rows}}}"))
    }

    /// See `overlay` in `lib.rs`: data of one decision, such as what a guest requests.
    pub fn overlay(&mut self, members: &[u8]) -> Result<(), String> {
        let members = Value::from_json_str(json(members)?).map_err(text_of)?;
        let mut data = self.data.clone();
        let all = data.as_object_mut().map_err(text_of)?;
        for (name, value) in members.as_object().map_err(text_of)?.iter() {
            all.insert(name.clone(), value.clone());
        }
        self.engine.clear_data();
        self.engine.add_data(data).map_err(text_of)
    }

    fn set_input(&mut self, input: &[u8]) -> Result<(), String> {
        let input = json(input)?;
        self.engine.set_input_json(input).map_err(text_of)
    }

    pub fn record_coverage(&mut self) {
        self.engine.set_enable_coverage(true);
    }

    pub fn coverage(&mut self) -> Result<String, String> {
        let report = self.engine.get_coverage_report().map_err(text_of)?;
        let lines = report.files.first().map(|file| (&file.covered, &file.not_covered));
        let (covered, not_covered) = lines.unzip();
        Ok(serde_json::json!({ "covered": covered, "not_covered": not_covered }).to_string())
    }
}

/// JSON in OPA's order: sets are sorted lists, other keys than strings are their JSON.
fn write(value: &Value, out: &mut String) -> Result<(), String> {
    let json = |value: &Value| serde_json::to_string(value).map_err(|e| e.to_string());
    match value {
        Value::Array(items) => list(items.iter(), out)?,
        Value::Set(items) => list(sorted(items.iter().collect()).into_iter(), out)?,
        Value::Object(items) => {
            out.push('{');
            for (index, (key, item)) in items.iter_sorted().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                let mut name = String::new();
                write(key, &mut name)?;
                let quoted = matches!(key, Value::String(_));
                if !quoted && name.contains(['\u{2028}', '\u{2029}', '<', '>', '&']) {
                    return Err(format!("the key {name} has more than one form in JSON"));
                }
                out.push_str(&if quoted { name } else { json(&Value::from(name))? });
                out.push(':');
                write(item, out)?;
            }
            out.push('}');
        }
        other => out.push_str(&json(other)?),
    }
    Ok(())
}

fn list<'a>(items: impl Iterator<Item = &'a Value>, out: &mut String) -> Result<(), String> {
    out.push('[');
    for (index, item) in items.enumerate() {
        out.push_str(if index > 0 { "," } else { "" });
        write(item, out)?;
    }
    out.push(']');
    Ok(())
}

fn text_of(error: anyhow::Error) -> String {
    error.to_string()
}
