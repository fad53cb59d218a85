//! WebAssembly interface of the policy engine: one instance holds one compiled policy.
//!
//! The host writes requests into memory from `buffer`, and reads each answer at the packed address
//! (`pointer << 32 | length`) that a call returns. An answer is valid until the next call. Every
//! answer is JSON: `{"error": "..."}`, or an object that the called function describes.
//!
//! The module imports nothing, so that a policy has no network, clock, environment or randomness.

mod functions;
mod memory;
mod names;
mod policy;
mod rewrite;
mod syntax;

use std::cell::RefCell;

use policy::Policy;
use serde_json::json;

thread_local! {
    static POLICY: RefCell<Option<Policy>> = const { RefCell::new(None) };
    static REQUEST: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static ANSWER: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Provides `length` bytes for the next request and returns their address.
#[unsafe(no_mangle)]
pub extern "C" fn buffer(length: usize) -> *mut u8 {
    REQUEST.with_borrow_mut(|request| {
        *request = vec![0; length];
        request.as_mut_ptr()
    })
}

/// Compiles the request `{"policy": text, "data": object, ...}`; see `policy::Request`.
///
/// The answer is `{"syntax": "v1" or "v0", "rules": [...]}`; see `Policy::description`.
#[unsafe(no_mangle)]
pub extern "C" fn compile() -> u64 {
    answer(policy::compile(&taken()).map(|compiled| {
        let text = compiled.description();
        POLICY.set(Some(compiled));
        text
    }))
}

/// Evaluates the package for the request, which is the input as JSON.
///
/// The answer is `{"document": {...}}`: the value of every rule that is defined. A policy that was
/// compiled with `trace` adds what `functions::trace` recorded.
#[unsafe(no_mangle)]
pub extern "C" fn evaluate() -> u64 {
    answer(with_policy(|policy| policy.evaluate(&taken())))
}

/// Puts the members of the request, an object, in place of data of the same names until the next
/// call of this function.
#[unsafe(no_mangle)]
pub extern "C" fn overlay() -> u64 {
    answer(with_policy(|policy| policy.overlay(&taken()).map(|()| "{}".to_owned())))
}

/// Starts recording which lines are evaluated.
#[unsafe(no_mangle)]
pub extern "C" fn record_coverage() -> u64 {
    answer(with_policy(|policy| {
        policy.record_coverage();
        Ok("{}".to_owned())
    }))
}

/// Returns `{"covered": [line, ...], "not_covered": [line, ...]}` since `record_coverage`.
#[unsafe(no_mangle)]
pub extern "C" fn coverage() -> u64 {
    answer(with_policy(|policy| policy.coverage()))
}

/// Returns 1 if the host refused more memory, else 0. It may be called after a trap.
#[unsafe(no_mangle)]
pub extern "C" fn exhausted() -> u32 {
    u32::from(memory::is_exhausted())
}

fn with_policy(work: impl FnOnce(&mut Policy) -> Result<String, String>) -> Result<String, String> {
    POLICY.with_borrow_mut(|policy| match policy {
        Some(policy) => work(policy),
        None => Err("no policy was compiled in this instance".to_owned()),
    })
}

fn taken() -> Vec<u8> {
    REQUEST.take()
}

fn answer(result: Result<String, String>) -> u64 {
    let text = result.unwrap_or_else(|error| json!({ "error": error }).to_string());
    ANSWER.with_borrow_mut(|answer| {
        *answer = text;
        ((answer.as_ptr() as u64) << 32) | answer.len() as u64
    })
}
