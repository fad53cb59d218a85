//! The syntax tree of a module, as the engine's parser gives it (in JSON).

use serde::Deserialize;

#[derive(Clone, Copy, Deserialize)]
pub struct Span {
    pub line: usize,
    pub start: usize,
    pub end: usize,
}

#[derive(Deserialize)]
pub struct Parsed {
    pub ast: Module,
}

#[derive(Deserialize)]
pub struct Module {
    pub package: Package,
    pub imports: Vec<Import>,
    pub rules: Vec<Rule>,
}

#[derive(Deserialize)]
pub struct Package {
    pub refr: Expr,
}

#[derive(Deserialize)]
pub struct Import {
    pub refr: Expr,
    #[serde(default)]
    pub r#as: Option<Span>,
}

#[derive(Deserialize)]
pub enum Rule {
    Spec { span: Span, head: Head, bodies: Vec<Body> },
    Default { span: Span, refr: Expr, args: Vec<Expr>, value: Expr },
}

#[derive(Deserialize)]
pub enum Head {
    Compr { refr: Expr, assign: Option<Assign> },
    Set { refr: Expr, key: Option<Expr> },
    Func { refr: Expr, args: Vec<Expr>, assign: Option<Assign> },
}

impl Head {
    pub fn reference(&self) -> &Expr {
        match self {
            Head::Compr { refr, .. } | Head::Set { refr, .. } | Head::Func { refr, .. } => refr,
        }
    }
}

#[derive(Deserialize)]
pub struct Assign {
    pub value: Expr,
}

#[derive(Deserialize)]
pub struct Body {
    pub span: Span,
    pub assign: Option<Assign>,
    pub is_else: bool,
    pub query: Query,
}

#[derive(Deserialize)]
pub struct Query {
    pub stmts: Vec<Statement>,
}

#[derive(Deserialize)]
pub struct Statement {
    pub span: Span,
    pub literal: Literal,
    #[serde(default)]
    pub with_mods: Vec<With>,
}

#[derive(Deserialize)]
pub struct With {
    pub refr: Expr,
    pub r#as: Expr,
}

#[derive(Deserialize)]
pub enum Literal {
    SomeVars { vars: Vec<Span> },
    SomeIn { key: Option<Expr>, value: Expr, collection: Expr },
    Expr { expr: Expr },
    NotExpr { expr: Expr },
    Every { key: Option<Span>, value: Span, domain: Expr, query: Query },
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum AssignOp {
    Eq,
    ColEq,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum BoolOp {
    Lt,
    Le,
    Eq,
    Ge,
    Gt,
    Ne,
}

#[derive(Clone, Copy, Deserialize)]
pub enum ArithOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
}

#[derive(Clone, Copy, Deserialize)]
pub enum BinOp {
    Union,
    Intersection,
}

#[derive(Deserialize)]
pub enum Expr {
    String { value: String },
    RawString { value: String },
    Number { span: Span },
    Bool { value: bool },
    Null {},
    Var { value: String },
    Array { items: Vec<Expr> },
    Set { items: Vec<Expr> },
    Object { fields: Vec<(Span, Expr, Expr)> },
    ArrayCompr { term: Box<Expr>, query: Query },
    SetCompr { term: Box<Expr>, query: Query },
    ObjectCompr { key: Box<Expr>, value: Box<Expr>, query: Query },
    Call { fcn: Box<Expr>, params: Vec<Expr> },
    UnaryExpr { expr: Box<Expr> },
    RefDot { refr: Box<Expr>, field: (Span, String) },
    RefBrack { refr: Box<Expr>, index: Box<Expr> },
    BinExpr { op: BinOp, lhs: Box<Expr>, rhs: Box<Expr> },
    BoolExpr { op: BoolOp, lhs: Box<Expr>, rhs: Box<Expr> },
    ArithExpr { op: ArithOp, lhs: Box<Expr>, rhs: Box<Expr> },
    AssignExpr { op: AssignOp, lhs: Box<Expr>, rhs: Box<Expr> },
    Membership { key: Option<Box<Expr>>, value: Box<Expr>, collection: Box<Expr> },
}

impl Expr {
    /// Names of a reference of constant parts, such as `["time", "clock"]`.
    pub fn path(&self) -> Option<Vec<&str>> {
        match self {
            Expr::Var { value, .. } => Some(vec![value]),
            Expr::RefDot { refr, field } => {
                let mut path = refr.path()?;
                path.push(&field.1);
                Some(path)
            }
            Expr::RefBrack { refr, index } => {
                let (Expr::String { value } | Expr::RawString { value }) = index.as_ref() else {
                    return None;
                };
                let mut path = refr.path()?;
                path.push(value);
                Some(path)
            }
            _ => None,
        }
    }

    /// The name at which a reference begins.
    pub fn root(&self) -> Option<&str> {
        match self {
            Expr::Var { value, .. } => Some(value),
            Expr::RefDot { refr, .. } | Expr::RefBrack { refr, .. } => refr.root(),
            _ => None,
        }
    }
}
