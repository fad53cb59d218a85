//! Writes a module again, in the syntax of Rego v1, so that the engine does what OPA does with the original.
//!
//! * Operands of a negated expression are evaluated before the negation, as OPA's compiler does:
//!   `not input.x in data.bad` is undefined, not true, where `input.x` is undefined.
//! * Operators become functions of `functions::operators`, operands of functions get guards.
//! * Local names of comprehensions and `every` become unique, so that a name can be used again.
//! * Names that OPA's compiler refuses are refused: unknown functions, unsafe variables.
//!
//! Every statement keeps its line, so that messages name the line of the original.

use std::collections::{BTreeMap, BTreeSet};

use crate::names;
use crate::syntax::{
    ArithOp, AssignOp, BinOp, Body, BoolOp, Expr, Head, Literal, Module, Query, Rule, Span,
    Statement, With,
};

type Result<T> = std::result::Result<T, String>;

/// What all modules define: functions with their number of operands, and first names of rules.
#[derive(Default)]
pub struct Globals {
    functions: BTreeMap<String, usize>,
    roots: BTreeSet<String>,
}

impl Globals {
    pub fn add(&mut self, module: &Module) -> Result<()> {
        let package = package(module)?;
        for rule in &module.rules {
            let (reference, operands) = match rule {
                Rule::Spec { head: Head::Func { refr, args, .. }, .. } => (refr, Some(args.len())),
                Rule::Spec { head, .. } => (head.reference(), None),
                Rule::Default { refr, args, .. } => {
                    (refr, (!args.is_empty()).then_some(args.len()))
                }
            };
            let root = reference.root().ok_or("a rule has no name")?;
            self.roots.insert(format!("{package}.{root}"));
            if let (Some(path), Some(operands)) = (reference.path(), operands) {
                self.functions.insert(format!("{package}.{}", path.join(".")), operands);
            }
        }
        Ok(())
    }
}

/// The package as a path, such as `data.policy`.
pub fn package(module: &Module) -> Result<String> {
    let path = module.package.refr.path().ok_or("the package has no constant name")?;
    Ok(format!("data.{}", path.join(".")))
}

/// The module in the syntax of Rego v1.
///
/// With `trace`, comparisons are written as calls of `functions::trace`, which records them.
pub fn rewrite(source: &str, module: &Module, globals: &Globals, trace: bool) -> Result<String> {
    let mut writer = Writer {
        source,
        trace,
        place: 0,
        package: package(module)?,
        globals,
        imports: BTreeMap::new(),
        out: String::new(),
        line: 1,
        frames: Vec::new(),
        bound: BTreeSet::new(),
        fresh: 0,
        missing: BTreeSet::new(),
    };
    writer.module(module)?;
    if writer.missing.is_empty() {
        return Ok(writer.out);
    }
    let missing: Vec<_> = writer.missing.iter().map(String::as_str).collect();
    Err(format!("the policy calls functions that it cannot call: {}", missing.join(", ")))
}

struct Writer<'a> {
    source: &'a str,
    trace: bool,
    /// Line of the original whose statement is being written.
    place: usize,
    package: String,
    globals: &'a Globals,
    imports: BTreeMap<String, String>,
    out: String,
    line: usize,
    /// Declared local names with those that they get; the first frame has a rule's own.
    frames: Vec<BTreeMap<String, String>>,
    /// Names that the current rule binds somewhere.
    bound: BTreeSet<String>,
    fresh: usize,
    missing: BTreeSet<String>,
}

/// Statements that have to come before a negated one, where their operands are hoisted.
type Hoisted<'h> = Option<&'h mut Vec<String>>;

const KEYWORDS: &[&str] = &[
    "as", "contains", "default", "else", "every", "false", "if", "import", "in", "not", "null",
    "package", "set", "some", "true", "with",
];

impl Writer<'_> {
    fn slice(&self, span: &Span) -> &str {
        self.source.get(span.start..span.end).unwrap_or_default()
    }

    /// An error with the place in the original, unless it has one.
    fn at_place(&self, span: &Span, error: String) -> String {
        if error.starts_with("line ") {
            return error;
        }
        let before = self.source.get(..span.start).unwrap_or_default();
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        format!("line {}, column {column}: {error}", span.line)
    }

    fn put(&mut self, text: &str) {
        self.line += text.matches('\n').count();
        self.out.push_str(text);
    }

    /// Begins something that stands in `line` of the original.
    fn at(&mut self, line: usize) {
        let text = if self.line < line { "\n".repeat(line - self.line) } else { " ".to_owned() };
        self.put(&text);
    }

    fn module(&mut self, module: &Module) -> Result<()> {
        let path = module.package.refr.path().unwrap_or_default();
        let package = path.iter().map(|part| serde_json::json!(part).to_string());
        let rest: String = package.skip(1).map(|part| format!("[{part}]")).collect();
        self.put(&format!("package {}{rest}", path[0]));
        for import in &module.imports {
            self.import(import)?;
        }
        for rule in &module.rules {
            let (Rule::Spec { span, .. } | Rule::Default { span, .. }) = rule;
            self.place = span.line;
            self.rule(rule).map_err(|error| self.at_place(span, error))?;
        }
        self.put("\n");
        Ok(())
    }

    fn import(&mut self, import: &crate::syntax::Import) -> Result<()> {
        let path = import.refr.path().ok_or("an import has no constant path")?;
        match path.as_slice() {
            ["rego", "v1"] | ["future", "keywords", ..] => return Ok(()),
            ["data"] => return Err("the import of the whole of data is not supported".to_owned()),
            ["data" | "input", ..] => {}
            _ => return Err(format!("the import {} is not available", path.join("."))),
        }
        let target = path.join(".");
        if target == self.package {
            return Err("the import of the policy's own package is not supported".to_owned());
        }
        let alias = match &import.r#as {
            Some(span) => self.slice(span).to_owned(),
            None => path[path.len() - 1].to_owned(),
        };
        let parts = path.iter().skip(1).map(|part| field(part));
        let text = format!("\nimport {}{} as {alias}", path[0], parts.collect::<String>());
        self.put(&text);
        self.imports.insert(alias, target);
        Ok(())
    }

    // Rules

    fn rule(&mut self, rule: &Rule) -> Result<()> {
        match rule {
            Rule::Default { span, refr, args, value } => {
                self.begin(rule);
                self.newline(span.line);
                let head = self.signature(refr, args)?;
                let value = self.expr(value, None)?;
                self.put(&format!("default {head} := {value}"));
            }
            Rule::Spec { span, head, bodies } => {
                self.begin(rule);
                self.check_head(head)?;
                self.newline(span.line);
                self.spec(head, bodies)?;
            }
        }
        Ok(())
    }

    fn newline(&mut self, line: usize) {
        self.put("\n");
        if self.line < line {
            self.at(line);
        }
    }

    fn begin(&mut self, rule: &Rule) {
        self.frames = vec![BTreeMap::new()];
        self.bound = BTreeSet::new();
        let mut bound = BTreeSet::new();
        let arity = |path: &Expr| self.arity(path);
        Binder { bound: &mut bound, source: self.source, arity: &arity }.rule(rule);
        self.bound = bound;
    }

    /// References in heads: at most the last part may be computed.
    fn check_head(&self, head: &Head) -> Result<()> {
        let reference = head.reference();
        let constant = match (head, reference) {
            (Head::Compr { .. }, Expr::RefBrack { refr, .. }) => refr.path().is_some(),
            _ => reference.path().is_some(),
        };
        if constant {
            return Ok(());
        }
        Err("a rule whose name has a variable before its last part is not supported".to_owned())
    }

    fn spec(&mut self, head: &Head, bodies: &[Body]) -> Result<()> {
        let Some(first) = bodies.first() else {
            let text = self.head(head, None)?;
            self.put(&text);
            return Ok(());
        };
        for body in bodies {
            if body.is_else {
                self.at(body.span.line);
                self.put("else");
                let (value, moved) = self.value(body.assign.as_ref().map(|a| &a.value), body)?;
                if !value.is_empty() {
                    self.put(&format!(" := {value}"));
                }
                self.body(body, moved.as_deref(), body.assign.as_ref().map(|a| &a.value))?;
            } else {
                if !std::ptr::eq(body, first) {
                    self.newline(body.span.line);
                }
                let value = head_value(head);
                let (text, moved) = self.value(value, body)?;
                let text = self.head(head, Some(text))?;
                self.put(&text);
                self.body(body, moved.as_deref(), value)?;
            }
        }
        Ok(())
    }

    /// Text of a rule's value. One with a query inside gets a name, and is evaluated in the body.
    fn value(&mut self, value: Option<&Expr>, body: &Body) -> Result<(String, Option<String>)> {
        let Some(value) = value else {
            return Ok((String::new(), None));
        };
        if !body.query.stmts.is_empty() && contains_query(value) {
            let name = self.unique("value");
            return Ok((name.clone(), Some(name)));
        }
        Ok((self.expr(value, None)?, None))
    }

    fn body(&mut self, body: &Body, moved: Option<&str>, value: Option<&Expr>) -> Result<()> {
        if body.query.stmts.is_empty() {
            return Ok(());
        }
        self.put(" if {");
        self.frames.push(BTreeMap::new());
        self.statements(&body.query)?;
        if let (Some(name), Some(value)) = (moved, value) {
            let value = self.expr(value, None)?;
            self.put(&format!("; {name} := {value}"));
        }
        self.frames.pop();
        self.put(" }");
        Ok(())
    }

    /// The head with the text of its value, or with its own.
    fn head(&mut self, head: &Head, value: Option<String>) -> Result<String> {
        let value = match value {
            Some(value) => value,
            None => match head_value(head) {
                Some(value) => self.expr(value, None)?,
                None => String::new(),
            },
        };
        let name = match head {
            Head::Compr { refr, .. } => self.reference(refr, &mut None)?,
            Head::Func { refr, args, .. } => self.signature(refr, args)?,
            Head::Set { refr, .. } => {
                let name = self.reference(refr, &mut None)?;
                return Ok(format!("{name} contains {value}"));
            }
        };
        Ok(if value.is_empty() { name } else { format!("{name} := {value}") })
    }

    fn signature(&mut self, refr: &Expr, args: &[Expr]) -> Result<String> {
        let name = self.reference(refr, &mut None)?;
        if args.is_empty() {
            return Ok(name);
        }
        for arg in args {
            self.check_pattern(arg)?;
            for name in pattern(arg) {
                self.frames[0].insert(name.to_owned(), name.to_owned());
            }
        }
        let args: Result<Vec<_>> = args.iter().map(|arg| self.expr(arg, None)).collect();
        Ok(format!("{name}({})", args?.join(", ")))
    }

    // Statements

    /// The statements of a rule's body, each in its line.
    fn statements(&mut self, query: &Query) -> Result<()> {
        for (index, statement) in query.stmts.iter().enumerate() {
            if index > 0 {
                self.put(";"); // a line break alone would make a call of `a` and `(b == c)`
            }
            self.at(statement.span.line);
            let text =
                self.statement(statement).map_err(|error| self.at_place(&statement.span, error))?;
            self.put(&text);
        }
        Ok(())
    }

    /// The statements of a comprehension or `every`, all in one line.
    fn inline(&mut self, query: &Query) -> Result<String> {
        let parts: Result<Vec<_>> = query.stmts.iter().map(|each| self.statement(each)).collect();
        Ok(parts?.join("; "))
    }

    fn statement(&mut self, statement: &Statement) -> Result<String> {
        let outer = std::mem::replace(&mut self.place, statement.span.line);
        let text = self.literal(statement);
        self.place = outer;
        text
    }

    fn literal(&mut self, statement: &Statement) -> Result<String> {
        let with = self.with(&statement.with_mods)?;
        let text = match &statement.literal {
            Literal::SomeVars { vars } => {
                let names: Result<Vec<_>> = vars
                    .iter()
                    .map(|span| {
                        let name = self.slice(span).to_owned();
                        self.declare(&name)
                    })
                    .collect();
                format!("some {}", names?.join(", "))
            }
            Literal::SomeIn { key, value, collection: domain } => {
                let collection = self.expr(domain, None)?;
                self.check_pattern(value)?;
                if let Expr::Set { items } = domain
                    && items.len() > 1
                    && !items.iter().all(is_constant)
                {
                    return Err("`some` over a set that is written out with computed elements is \
                                not supported: give the set a name first"
                        .to_owned());
                }
                for name in key.iter().chain([value]).flat_map(pattern) {
                    self.declare(name)?;
                }
                let value = self.expr(value, None)?;
                match key {
                    Some(key) => {
                        format!(
                            "some {}, {value} in __iterated({collection})",
                            self.expr(key, None)?
                        )
                    }
                    None => format!("some {value} in __iterated({collection})"),
                }
            }
            Literal::Every { key, value, domain, query } => {
                let domain = self.expr(domain, None)?;
                self.frames.push(BTreeMap::new());
                let mut names = Vec::new();
                for span in key.iter().chain([value]) {
                    let name = self.slice(span).to_owned();
                    names.push(self.declare(&name)?);
                }
                let inner = self.inline(query)?;
                self.frames.pop();
                format!("every {} in {domain} {{ {inner} }}", names.join(", "))
            }
            Literal::Expr { expr } => self.expression(expr)?,
            Literal::NotExpr { expr } => return self.negation(expr, &with),
        };
        Ok(text + &with)
    }

    fn expression(&mut self, expr: &Expr) -> Result<String> {
        if let Expr::AssignExpr { op: AssignOp::ColEq, lhs, rhs } = expr {
            let value = self.expr(rhs, None)?;
            self.check_pattern(lhs)?;
            for name in pattern(lhs) {
                self.declare(name)?;
            }
            return Ok(format!("{} := {value}", self.expr(lhs, None)?));
        }
        self.expr(expr, None)
    }

    fn negation(&mut self, expr: &Expr, with: &str) -> Result<String> {
        let mut hoisted = Vec::new();
        let core = match expr {
            Expr::BoolExpr { op: BoolOp::Eq, lhs, rhs } => {
                let (lhs, rhs) = (self.side(lhs, &mut hoisted)?, self.side(rhs, &mut hoisted)?);
                self.compared("==", &lhs, &rhs).unwrap_or_else(|| format!("{lhs} == {rhs}"))
            }
            Expr::AssignExpr { op: AssignOp::Eq, lhs, rhs } => {
                let (lhs, rhs) = (self.side(lhs, &mut hoisted)?, self.side(rhs, &mut hoisted)?);
                format!("{lhs} = {rhs}")
            }
            Expr::AssignExpr { .. } => return Err("an assignment cannot be negated".to_owned()),
            _ if is_call(expr) => self.expr(expr, Some(&mut hoisted))?,
            _ => self.side(expr, &mut hoisted)?,
        };
        let mut text = String::new();
        for statement in hoisted {
            text.push_str(&format!("{statement}{with}; "));
        }
        Ok(format!("{text}not {core}{with}"))
    }

    /// One side of a negated equality: a reference stays where it is.
    fn side(&mut self, expr: &Expr, hoisted: &mut Vec<String>) -> Result<String> {
        if is_call(expr) {
            return self.operand(expr, &mut Some(hoisted));
        }
        self.expr(expr, Some(hoisted))
    }

    fn with(&mut self, modifiers: &[With]) -> Result<String> {
        let mut text = String::new();
        for With { refr, r#as } in modifiers {
            let target = match refr.root() {
                Some("input" | "data") => self.reference(refr, &mut None)?,
                _ => self.function(refr)?.0,
            };
            let value = match r#as {
                Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. }
                    if self.is_function(r#as) =>
                {
                    if let Ok(path) = self.resolve(r#as)
                        && names::function(&path).is_some()
                    {
                        return Err(format!(
                            "`with` cannot replace by {path}: write a function that calls it"
                        ));
                    }
                    self.function(r#as)?.0
                }
                value => self.expr(value, None)?,
            };
            text.push_str(&format!(" with {target} as {value}"));
        }
        Ok(text)
    }

    // Names

    /// Refuses patterns whose meaning differs: OPA's object patterns fit whole objects only.
    fn check_pattern(&self, expr: &Expr) -> Result<()> {
        match expr {
            Expr::Array { items } => items.iter().try_for_each(|item| self.check_pattern(item)),
            Expr::Object { .. } if !pattern(expr).is_empty() => {
                Err("an object that binds variables is not supported: compare its members instead"
                    .to_owned())
            }
            _ => Ok(()),
        }
    }

    fn declare(&mut self, name: &str) -> Result<String> {
        if name == "_" {
            return Ok(name.to_owned());
        }
        if name.starts_with("__") {
            return Err(format!("the name {name} is reserved: names may not begin with __"));
        }
        let depth = self.frames.len();
        let twice = self.frames[depth - 1].contains_key(name)
            || (depth == 2 && self.frames[0].contains_key(name));
        if twice {
            return Err(format!("the variable {name} is declared twice"));
        }
        let given = if depth <= 2 { name.to_owned() } else { self.unique(name) };
        self.frames[depth - 1].insert(name.to_owned(), given.clone());
        Ok(given)
    }

    fn unique(&mut self, name: &str) -> String {
        self.fresh += 1;
        format!("__{}_{name}", self.fresh)
    }

    fn local(&self, name: &str) -> Option<&String> {
        self.frames.iter().rev().find_map(|frame| frame.get(name))
    }

    fn is_global(&self, name: &str) -> bool {
        matches!(name, "input" | "data")
            || self.imports.contains_key(name)
            || self.globals.roots.contains(&format!("{}.{name}", self.package))
    }

    fn variable(&self, name: &str) -> Result<String> {
        if name == "_" {
            return Ok(name.to_owned());
        }
        if name.starts_with("__") && self.package == "data.policy" {
            return Err(format!("the name {name} is reserved: names may not begin with __"));
        }
        if self.bound.contains(name) {
            return Ok(self.local(name).cloned().unwrap_or_else(|| name.to_owned()));
        }
        if self.local(name).is_none() && self.is_global(name) {
            return Ok(name.to_owned());
        }
        Err(format!("the variable {name} is unsafe: nothing gives it a value"))
    }

    /// Full path of what a name in a call or `with` stands for.
    fn resolve(&self, expr: &Expr) -> Result<String> {
        let path = expr.path().ok_or("a function has no constant name")?;
        if self.local(path[0]).is_some() {
            return Err(format!("the variable {} is called as a function", path[0]));
        }
        let joined = path.join(".");
        if let Some(target) = self.imports.get(path[0]) {
            return Ok(format!("{target}{}", &joined[path[0].len()..]));
        }
        if self.globals.roots.contains(&format!("{}.{}", self.package, path[0])) {
            return Ok(format!("{}.{joined}", self.package));
        }
        Ok(joined)
    }

    fn arity(&self, expr: &Expr) -> Option<usize> {
        let path = self.resolve(expr).ok()?;
        let own = self.globals.functions.get(&path).copied();
        own.or_else(|| names::function(&path).map(|function| function.operands))
    }

    fn is_function(&self, expr: &Expr) -> bool {
        let known = expr.root().is_some_and(|root| self.local(root).is_some());
        let bound = expr.root().is_some_and(|root| self.bound.contains(root));
        !known
            && !bound
            && (self.arity(expr).is_some() || !self.is_global(expr.root().unwrap_or_default()))
    }

    /// Text and guards of a function's name; an unknown one is recorded.
    fn function(&mut self, expr: &Expr) -> Result<(String, Option<names::Function>)> {
        let path = self.resolve(expr)?;
        if let Some(operands) = self.globals.functions.get(&path) {
            let mut parts = path.split('.');
            let first = parts.next().unwrap_or_default().to_owned();
            let own = names::Function { operands: *operands, ..Default::default() };
            return Ok((first + &parts.map(field).collect::<String>(), Some(own)));
        }
        if let Some(function) = names::function(&path) {
            return Ok((path, Some(function)));
        }
        let absence = names::absence(&path);
        self.missing.insert(format!("{path} ({absence}) in line {}", self.place));
        Ok((path, None))
    }

    // Terms

    fn expr(&mut self, expr: &Expr, hoisted: Hoisted) -> Result<String> {
        let mut hoisted = hoisted;
        let h = &mut hoisted;
        Ok(match expr {
            Expr::String { value } | Expr::RawString { value } => {
                serde_json::json!(value).to_string()
            }
            Expr::Number { span } => self.number(span)?,
            Expr::Bool { value } => value.to_string(),
            Expr::Null {} => "null".to_owned(),
            Expr::Var { value } if value == "data" => return Err(WHOLE_DATA.to_owned()),
            Expr::Var { value } => self.variable(value)?,
            Expr::Array { items } => format!("[{}]", self.operands(items, h)?),
            Expr::Set { items } if items.is_empty() => "set()".to_owned(),
            Expr::Set { items } => format!("{{{}}}", self.operands(items, h)?),
            Expr::Object { fields } => self.object(fields, h)?,
            Expr::ArrayCompr { term, query } => self.comprehension("[", &[term], query, "]")?,
            Expr::SetCompr { term, query } => self.comprehension("{", &[term], query, "}")?,
            Expr::ObjectCompr { key, value, query } => {
                self.comprehension("{", &[key, value], query, "}")?
            }
            Expr::Call { fcn, params } => self.call(fcn, params, h)?,
            Expr::UnaryExpr { expr } => match expr.as_ref() {
                Expr::Number { span } => format!("-{}", self.number(span)?),
                _ => return Err("a minus sign before anything but a number is no Rego".to_owned()),
            },
            Expr::RefDot { .. } | Expr::RefBrack { .. } => {
                if expr.path().is_some_and(|path| path.join(".") == self.package) {
                    return Err(WHOLE_DATA.to_owned());
                }
                self.reference(expr, h)?
            }
            Expr::BinExpr { op, lhs, rhs } => {
                let sign = match op {
                    BinOp::Union => "|",
                    BinOp::Intersection => "&",
                };
                format!("({} {sign} {})", self.operand(lhs, h)?, self.operand(rhs, h)?)
            }
            Expr::BoolExpr { op: BoolOp::Eq, lhs, rhs } => {
                let (lhs, rhs) = (self.operand(lhs, h)?, self.operand(rhs, h)?);
                self.compared("==", &lhs, &rhs).unwrap_or_else(|| format!("({lhs} == {rhs})"))
            }
            Expr::BoolExpr { op, lhs, rhs } => {
                let (name, sign) = comparison(*op);
                let (lhs, rhs) = (self.operand(lhs, h)?, self.operand(rhs, h)?);
                self.compared(sign, &lhs, &rhs).unwrap_or_else(|| format!("{name}({lhs}, {rhs})"))
            }
            Expr::ArithExpr { op, lhs, rhs } => self.operator(arithmetic(*op), lhs, rhs, h)?,
            Expr::AssignExpr { op: AssignOp::Eq, lhs, rhs } => {
                self.check_pattern(lhs)?;
                self.check_pattern(rhs)?;
                format!("{} = {}", self.operand(lhs, h)?, self.operand(rhs, h)?)
            }
            Expr::AssignExpr { .. } => {
                return Err("an assignment inside an expression is no Rego".to_owned());
            }
            Expr::Membership { key, value, collection } => {
                let (value, collection) = (self.operand(value, h)?, self.operand(collection, h)?);
                match key {
                    Some(key) => {
                        format!("__in_at({}, {value}, {collection})", self.operand(key, h)?)
                    }
                    None => self
                        .compared("in", &value, &collection)
                        .unwrap_or_else(|| format!("__in({value}, {collection})")),
                }
            }
        })
    }

    /// An object. Where a key is computed, two keys may be equal: then there is no answer.
    fn object(&mut self, fields: &[(Span, Expr, Expr)], h: &mut Hoisted) -> Result<String> {
        let mut keys = BTreeSet::new();
        let mut parts = Vec::new();
        let constant = fields.iter().all(|(_, key, _)| is_constant(key));
        for (_, key, value) in fields {
            let (key, value) = (self.operand(key, h)?, self.operand(value, h)?);
            if !keys.insert(key.clone()) && constant {
                return Err(format!("an object has the key {key} twice"));
            }
            parts.push((key, value));
        }
        if constant || parts.len() < 2 {
            let parts = parts.iter().map(|(key, value)| format!("{key}: {value}"));
            return Ok(format!("{{{}}}", parts.collect::<Vec<_>>().join(", ")));
        }
        let pairs = parts.iter().map(|(key, value)| format!("[{key}, {value}]"));
        Ok(format!("__object([{}])", pairs.collect::<Vec<_>>().join(", ")))
    }

    /// A comparison that is recorded; none without `trace`.
    fn compared(&self, sign: &str, lhs: &str, rhs: &str) -> Option<String> {
        self.trace.then(|| format!("__compared({sign:?}, {}, {lhs}, {rhs})", self.place))
    }

    fn operator(&mut self, name: &str, lhs: &Expr, rhs: &Expr, h: &mut Hoisted) -> Result<String> {
        Ok(format!("{name}({}, {})", self.operand(lhs, h)?, self.operand(rhs, h)?))
    }

    /// A number in the one form in which both engines write it.
    fn number(&self, span: &Span) -> Result<String> {
        let text = self.slice(span);
        let known = crate::functions::guards::numeral_text(text);
        known.map(|()| text.to_owned()).map_err(|error| error.to_string())
    }

    fn operands(&mut self, items: &[Expr], hoisted: &mut Hoisted) -> Result<String> {
        let parts: Result<Vec<_>> = items.iter().map(|item| self.operand(item, hoisted)).collect();
        Ok(parts?.join(", "))
    }

    /// A term inside another one, evaluated before it where operands are hoisted.
    fn operand(&mut self, expr: &Expr, hoisted: &mut Hoisted) -> Result<String> {
        let Some(list) = hoisted else {
            return self.expr(expr, None);
        };
        let text = self.expr(expr, Some(list))?;
        let separate = match expr {
            Expr::Var { value } => !self.bound.contains(value) && self.is_global(value),
            Expr::RefDot { .. } | Expr::RefBrack { .. } => true,
            _ => is_call(expr),
        };
        if !separate {
            return Ok(text);
        }
        let name = self.unique("operand");
        list.push(format!("{name} := {text}"));
        Ok(name)
    }

    fn reference(&mut self, expr: &Expr, hoisted: &mut Hoisted) -> Result<String> {
        match expr {
            Expr::Var { value } if value == "data" => Ok(value.clone()),
            Expr::RefDot { refr, field: (_, name) } => {
                Ok(self.reference(refr, hoisted)? + &field(name))
            }
            Expr::RefBrack { refr, index } => {
                let constant =
                    matches!(index.as_ref(), Expr::String { .. } | Expr::RawString { .. });
                let base = refr.path().map(|path| path.join("."));
                if !constant && base.is_some_and(|base| base == "data" || base == self.package) {
                    return Err(WHOLE_DATA.to_owned());
                }
                let base = self.reference(refr, hoisted)?;
                Ok(format!("{base}[{}]", self.operand(index, hoisted)?))
            }
            other if is_call(other) => self.operand(other, hoisted),
            other => {
                let inner: Hoisted = match hoisted {
                    Some(list) => Some(list),
                    None => None,
                };
                self.expr(other, inner)
            }
        }
    }

    fn comprehension(
        &mut self,
        open: &str,
        terms: &[&Expr],
        query: &Query,
        close: &str,
    ) -> Result<String> {
        self.frames.push(BTreeMap::new());
        if self.frames.len() < 3 {
            self.frames.push(BTreeMap::new()); // in a head: never one of the rule's own
        }
        let depth = self.frames.len();
        let inner = self.inline(query)?;
        let terms: Result<Vec<_>> = terms.iter().map(|term| self.expr(term, None)).collect();
        self.frames.truncate(depth - 1);
        Ok(format!("{open}{} | {inner}{close}", terms?.join(": ")))
    }

    fn call(&mut self, fcn: &Expr, params: &[Expr], h: &mut Hoisted) -> Result<String> {
        let (name, function) = self.function(fcn)?;
        let Some(names::Function { operands, guards, result }) = function else {
            return Ok(name);
        };
        if name == "walk" {
            return match params {
                [root, pair] => {
                    let root = self.operand(root, h)?;
                    Ok(format!("walk({root}, {})", self.expr(pair, None)?))
                }
                _ => Err("walk takes a value, and a pair of path and value".to_owned()),
            };
        }
        if params.len() != operands && params.len() != operands + 1 {
            return Err(format!("{name} takes {operands} operands, not {}", params.len()));
        }
        let mut texts = Vec::new();
        for (index, param) in params[..operands].iter().enumerate() {
            let text = self.operand(param, h)?;
            texts.push(match guards.get(index) {
                Some(Some(guard)) => format!("{guard}({text})"),
                _ => text,
            });
        }
        let mut call = format!("{name}({})", texts.join(", "));
        if let Some(guard) = result {
            call = format!("{guard}({call})");
        }
        match params.get(operands) {
            Some(result) => Ok(format!("{} = {call}", self.operand(result, h)?)),
            None => Ok(call),
        }
    }
}

const WHOLE_DATA: &str =
    "a reference to the whole of data, or of the policy's package, is not supported";

fn field(name: &str) -> String {
    let mut characters = name.chars();
    let begins = characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if begins
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !KEYWORDS.contains(&name)
    {
        return format!(".{name}");
    }
    format!("[{}]", serde_json::json!(name))
}

fn is_constant(expr: &Expr) -> bool {
    matches!(
        expr,
        Expr::String { .. }
            | Expr::RawString { .. }
            | Expr::Number { .. }
            | Expr::Bool { .. }
            | Expr::Null {}
    )
}

/// Whether OPA makes a call of it, which it evaluates before a negation around it.
fn is_call(expr: &Expr) -> bool {
    matches!(
        expr,
        Expr::Call { .. }
            | Expr::BinExpr { .. }
            | Expr::BoolExpr { .. }
            | Expr::ArithExpr { .. }
            | Expr::Membership { .. }
    )
}

/// Name of the operator's function, and its sign.
fn comparison(op: BoolOp) -> (&'static str, &'static str) {
    match op {
        BoolOp::Lt => ("__lt", "<"),
        BoolOp::Le => ("__le", "<="),
        BoolOp::Eq => ("__eq", "=="),
        BoolOp::Ge => ("__ge", ">="),
        BoolOp::Gt => ("__gt", ">"),
        BoolOp::Ne => ("__ne", "!="),
    }
}

fn arithmetic(op: ArithOp) -> &'static str {
    match op {
        ArithOp::Add => "__add",
        ArithOp::Sub => "__sub",
        ArithOp::Mul => "__mul",
        ArithOp::Div => "__div",
        ArithOp::Mod => "__mod",
    }
}

fn head_value(head: &Head) -> Option<&Expr> {
    match head {
        Head::Set { key, .. } => key.as_ref(),
        Head::Compr { assign, .. } | Head::Func { assign, .. } => {
            assign.as_ref().map(|assign| &assign.value)
        }
    }
}

/// Variables that a pattern binds.
fn pattern(expr: &Expr) -> Vec<&str> {
    match expr {
        Expr::Var { value } => vec![value],
        Expr::Array { items } => items.iter().flat_map(pattern).collect(),
        Expr::Object { fields } => fields.iter().flat_map(|(_, _, value)| pattern(value)).collect(),
        _ => Vec::new(),
    }
}

/// Collects the names that a rule binds anywhere.
struct Binder<'a> {
    bound: &'a mut BTreeSet<String>,
    source: &'a str,
    arity: &'a dyn Fn(&Expr) -> Option<usize>,
}

impl Binder<'_> {
    fn rule(&mut self, rule: &Rule) {
        match rule {
            Rule::Default { args, value, .. } => {
                args.iter().for_each(|arg| self.bind(arg));
                self.expr(value);
            }
            Rule::Spec { head, bodies, .. } => {
                match head {
                    Head::Compr { refr, assign } => {
                        if let Expr::RefBrack { index, .. } = refr {
                            self.expr(index); // a key is no place that binds
                        }
                        assign.iter().for_each(|assign| self.expr(&assign.value));
                    }
                    Head::Set { key, .. } => key.iter().for_each(|key| self.expr(key)),
                    Head::Func { args, assign, .. } => {
                        args.iter().for_each(|arg| self.bind(arg));
                        assign.iter().for_each(|assign| self.expr(&assign.value));
                    }
                }
                for body in bodies {
                    body.assign.iter().for_each(|assign| self.expr(&assign.value));
                    self.query(&body.query);
                }
            }
        }
    }

    fn bind(&mut self, expr: &Expr) {
        self.bound.extend(pattern(expr).into_iter().map(str::to_owned));
    }

    fn name(&mut self, span: &Span) {
        let name = self.source.get(span.start..span.end).unwrap_or_default();
        self.bound.insert(name.to_owned());
    }

    fn query(&mut self, query: &Query) {
        for statement in &query.stmts {
            match &statement.literal {
                Literal::SomeVars { .. } => {}
                Literal::SomeIn { key, value, collection } => {
                    key.iter().chain([value]).for_each(|each| self.bind(each));
                    self.expr(collection);
                }
                Literal::Expr { expr } => self.expr(expr),
                Literal::NotExpr { expr } => self.negated(expr),
                Literal::Every { key, value, domain, query } => {
                    key.iter().chain([value]).for_each(|span| self.name(span));
                    self.expr(domain);
                    self.query(query);
                }
            }
            for with in &statement.with_mods {
                self.expr(&with.r#as);
            }
        }
    }

    /// A negated expression binds nothing but inside its comprehensions.
    fn negated(&mut self, expr: &Expr) {
        let before = self.bound.clone();
        self.expr(expr);
        let kept = std::mem::replace(self.bound, before);
        if contains_query(expr) {
            self.bound.extend(kept);
        }
    }

    fn expr(&mut self, expr: &Expr) {
        match expr {
            Expr::Array { items } | Expr::Set { items } => {
                items.iter().for_each(|item| self.expr(item));
            }
            Expr::Object { fields } => fields.iter().for_each(|(_, key, value)| {
                self.expr(key);
                self.expr(value);
            }),
            Expr::ArrayCompr { term, query } | Expr::SetCompr { term, query } => {
                self.expr(term);
                self.query(query);
            }
            Expr::ObjectCompr { key, value, query } => {
                self.expr(key);
                self.expr(value);
                self.query(query);
            }
            Expr::Call { fcn, params } => {
                params.iter().for_each(|param| self.expr(param));
                // A function that is not available is named instead of its result.
                if (self.arity)(fcn).is_none_or(|operands| params.len() == operands + 1) {
                    params.last().into_iter().for_each(|result| self.bind(result));
                }
            }
            Expr::UnaryExpr { expr } => self.expr(expr),
            Expr::RefDot { refr, .. } => self.expr(refr),
            Expr::RefBrack { refr, index } => {
                self.expr(refr);
                self.bind(index);
                self.expr(index);
            }
            Expr::BinExpr { lhs, rhs, .. }
            | Expr::BoolExpr { lhs, rhs, .. }
            | Expr::ArithExpr { lhs, rhs, .. } => {
                self.expr(lhs);
                self.expr(rhs);
            }
            Expr::AssignExpr { op, lhs, rhs } => {
                self.bind(lhs);
                if *op == AssignOp::Eq {
                    self.bind(rhs);
                }
                self.expr(lhs);
                self.expr(rhs);
            }
            Expr::Membership { key, value, collection } => {
                key.iter().for_each(|key| self.expr(key));
                self.expr(value);
                self.expr(collection);
            }
            _ => {}
        }
    }
}

fn contains_query(expr: &Expr) -> bool {
    match expr {
        Expr::ArrayCompr { .. } | Expr::SetCompr { .. } | Expr::ObjectCompr { .. } => true,
        Expr::Array { items } | Expr::Set { items } => items.iter().any(contains_query),
        Expr::Object { fields } => {
            fields.iter().any(|(_, key, value)| contains_query(key) || contains_query(value))
        }
        Expr::Call { params, .. } => params.iter().any(contains_query),
        Expr::UnaryExpr { expr } => contains_query(expr),
        Expr::RefDot { refr, .. } => contains_query(refr),
        Expr::RefBrack { refr, index } => contains_query(refr) || contains_query(index),
        Expr::BinExpr { lhs, rhs, .. }
        | Expr::BoolExpr { lhs, rhs, .. }
        | Expr::ArithExpr { lhs, rhs, .. }
        | Expr::AssignExpr { lhs, rhs, .. } => contains_query(lhs) || contains_query(rhs),
        Expr::Membership { key, value, collection } => {
            key.as_ref().is_some_and(|key| contains_query(key))
                || contains_query(value)
                || contains_query(collection)
        }
        _ => false,
    }
}
