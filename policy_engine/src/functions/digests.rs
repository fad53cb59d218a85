//! `crypto.md5`, `crypto.sha1`, `crypto.sha256`, and `crypto.hmac.*`: lower-case hex digests.

use anyhow::Result;
use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use regorus::Value;
use sha1::Sha1;
use sha2::{Sha256, Sha512};

use super::{Entry, string};

pub const ENTRIES: &[Entry] = &[
    ("crypto.md5", 1, |v| Ok(hex(&Md5::digest(string(v, 0)?)))),
    ("crypto.sha1", 1, |v| Ok(hex(&Sha1::digest(string(v, 0)?)))),
    ("crypto.sha256", 1, |v| Ok(hex(&Sha256::digest(string(v, 0)?)))),
    ("crypto.hmac.md5", 2, |v| mac::<Hmac<Md5>>(v)),
    ("crypto.hmac.sha1", 2, |v| mac::<Hmac<Sha1>>(v)),
    ("crypto.hmac.sha256", 2, |v| mac::<Hmac<Sha256>>(v)),
    ("crypto.hmac.sha512", 2, |v| mac::<Hmac<Sha512>>(v)),
    ("crypto.hmac.equal", 2, |v| Ok(Value::from(string(v, 0)? == string(v, 1)?))),
];

fn mac<M: Mac + KeyInit>(values: &[Value]) -> Result<Value> {
    let (message, key) = (string(values, 0)?, string(values, 1)?);
    let mut mac = <M as KeyInit>::new_from_slice(key.as_bytes())?;
    mac.update(message.as_bytes());
    Ok(hex(&mac.finalize().into_bytes()))
}

fn hex(digest: &[u8]) -> Value {
    let text: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Value::from(text)
}
