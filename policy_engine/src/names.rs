//! Which functions a policy may call: their names, operands, and how an operand is guarded.

/// Guards are functions of this crate (`functions::guards`) put around an operand. They return
/// it where the engine's function does what OPA's does, and fail where it may do otherwise.
pub type Guard = Option<&'static str>;

#[derive(Clone, Copy, Default)]
pub struct Function {
    pub operands: usize,
    /// One for each operand; missing ones are `None`.
    pub guards: &'static [Guard],
    /// Of the result.
    pub result: Guard,
}

const INTEGER: Guard = Some("__integer");
const MODERATE: Guard = Some("__moderate");
const PATTERN: Guard = Some("__pattern");
const PLAIN: Guard = Some("__plain");

/// Functions of their operands alone: no environment, network, clock or randomness, no output.
#[rustfmt::skip]
pub fn function(name: &str) -> Option<Function> {
    let (operands, guards): (usize, &'static [Guard]) = match name {
        "abs" | "ceil" | "floor" | "round" => (1, &[MODERATE]),
        "count" | "max" | "min" | "sort" => (1, &[]),
        "sum" => (1, &[Some("__summable")]),
        "product" => (1, &[Some("__multipliable")]),
        "array.concat" => (2, &[]),
        "array.reverse" => (1, &[]),
        "array.slice" => (3, &[None, INTEGER, INTEGER]),
        "intersection" | "union" => (1, &[]),
        "object.filter" | "object.remove" | "object.union" => (2, &[]),
        "json.patch" => (2, &[]),
        "object.get" => (3, &[]),
        "object.keys" | "object.union_n" => (1, &[]),
        "object.subset" => (2, &[]),
        "concat" | "contains" | "endswith" | "startswith" | "split" => (2, &[]),
        "format_int" => (2, &[MODERATE, INTEGER]),
        "indexof" | "indexof_n" => (2, &[None, Some("__not_empty")]),
        "lower" | "upper" | "trim_space" | "strings.reverse" => (1, &[]),
        "replace" => (3, &[]),
        "sprintf" => (2, &[]),
        "strings.any_prefix_match" | "strings.any_suffix_match" | "strings.count" => (2, &[]),
        "strings.replace_n" => (2, &[]),
        "substring" => (3, &[None, INTEGER, INTEGER]),
        "trim" | "trim_left" | "trim_prefix" | "trim_right" | "trim_suffix" => (2, &[]),
        "regex.match" => (2, &[PATTERN]),
        "regex.split" => (2, &[Some("__separator")]),
        "regex.is_valid" => (1, &[PATTERN]),
        "regex.replace" => (3, &[None, PATTERN]),
        "regex.find_n" | "regex.find_all_string_submatch_n" => (3, &[PATTERN, None, INTEGER]),
        "bits.and" | "bits.or" | "bits.xor" => (2, &[MODERATE, MODERATE]),
        "bits.negate" => (1, &[MODERATE]),
        "bits.lsh" | "bits.rsh" => (2, &[MODERATE, INTEGER]),
        "to_number" => (1, &[Some("__numeral")]),
        "is_array" | "is_boolean" | "is_null" | "is_number" | "is_object" | "is_set"
        | "is_string" | "type_name" => (1, &[]),
        "base64.encode" | "base64url.encode" | "base64url.encode_no_pad" | "hex.encode" => (1, &[]),
        "base64.decode" | "base64.is_valid" | "base64url.decode" => (1, &[Some("__one_line")]),
        "hex.decode" => (1, &[]),
        "urlquery.encode" | "urlquery.decode" => (1, &[]),
        "json.marshal" => (1, &[PLAIN]),
        "json.unmarshal" | "json.is_valid" => (1, &[Some("__json")]),
        "numbers.range" => (2, &[INTEGER, INTEGER]),
        "numbers.range_step" => (3, &[INTEGER, INTEGER, INTEGER]),
        "semver.compare" => (2, &[Some("__version"), Some("__version")]),
        "units.parse" | "units.parse_bytes" => (1, &[]),
        "graph.reachable" => (2, &[]),
        "walk" => (1, &[]),
        "net.cidr_contains" | "net.cidr_intersects" => (2, &[]),
        "net.cidr_is_valid" => (1, &[]),
        "time.parse_rfc3339_ns" | "time.parse_duration_ns" => (1, &[]),
        "time.add_date" => (4, &[]),
        "time.date" | "time.clock" | "time.weekday" | "time.format" => (1, &[]),
        "time.diff" => (2, &[]),
        "crypto.md5" | "crypto.sha1" | "crypto.sha256" => (1, &[]),
        "crypto.hmac.md5" | "crypto.hmac.sha1" | "crypto.hmac.sha256" | "crypto.hmac.sha512"
        | "crypto.hmac.equal" => (2, &[]),
        _ => return None,
    };
    let decodes = matches!(name, "base64.decode" | "base64url.decode" | "hex.decode");
    Some(Function { operands, guards, result: decodes.then_some("__decoded") })
}

/// Why a function is not available, for the message that refuses it.
pub fn absence(name: &str) -> &'static str {
    match name {
        "http.send" | "net.lookup_ip_addr" => "absent on purpose: a policy has no network",
        "time.now_ns" => "absent on purpose: a policy has no clock",
        "opa.runtime" => "absent on purpose: a policy has no environment",
        "rand.intn" | "uuid.rfc4122" => "absent on purpose: a policy has no randomness",
        "print" | "trace" => "absent on purpose: a policy has no output",
        _ if NOT_YET.contains(&name) => "not available yet",
        _ if OPERATORS.contains(&name) => "not available: write the operator",
        _ => "unknown",
    }
}

/// OPA's functions that depend on their operands alone, and that this engine does not have.
const NOT_YET: &[&str] = &[
    "all",
    "any",
    "cast_array",
    "cast_boolean",
    "cast_null",
    "cast_object",
    "cast_set",
    "cast_string",
    "crypto.parse_private_keys",
    "crypto.x509.parse_and_verify_certificates",
    "crypto.x509.parse_and_verify_certificates_with_options",
    "crypto.x509.parse_certificate_request",
    "crypto.x509.parse_certificates",
    "crypto.x509.parse_keypair",
    "crypto.x509.parse_rsa_private_key",
    "glob.match",
    "glob.quote_meta",
    "graph.reachable_paths",
    "graphql.is_valid",
    "graphql.parse",
    "graphql.parse_and_verify",
    "graphql.parse_query",
    "graphql.parse_schema",
    "graphql.schema_is_valid",
    "io.jwt.decode",
    "io.jwt.decode_verify",
    "io.jwt.encode_sign",
    "io.jwt.encode_sign_raw",
    "io.jwt.verify_es256",
    "io.jwt.verify_es384",
    "io.jwt.verify_es512",
    "io.jwt.verify_hs256",
    "io.jwt.verify_hs384",
    "io.jwt.verify_hs512",
    "io.jwt.verify_ps256",
    "io.jwt.verify_ps384",
    "io.jwt.verify_ps512",
    "io.jwt.verify_rs256",
    "io.jwt.verify_rs384",
    "io.jwt.verify_rs512",
    "json.filter",
    "json.marshal_with_options",
    "json.match_schema",
    "json.remove",
    "json.verify_schema",
    "net.cidr_contains_matches",
    "net.cidr_expand",
    "net.cidr_merge",
    "net.cidr_overlap",
    "providers.aws.sign_req",
    "re_match",
    "regex.globs_match",
    "regex.template_match",
    "rego.metadata.chain",
    "rego.metadata.rule",
    "rego.parse_module",
    "semver.is_valid",
    "set_diff",
    "strings.render_template",
    "time.parse_ns",
    "urlquery.decode_object",
    "urlquery.encode_object",
    "uuid.parse",
    "yaml.is_valid",
    "yaml.marshal",
    "yaml.unmarshal",
];

/// Names that OPA gives to operators.
const OPERATORS: &[&str] = &[
    "and", "assign", "div", "eq", "equal", "gt", "gte", "lt", "lte", "minus", "mul", "neq", "or",
    "plus", "rem",
];
