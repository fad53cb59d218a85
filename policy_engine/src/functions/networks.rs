//! `net.cidr_contains`, `net.cidr_intersects` and `net.cidr_is_valid`: arithmetic on addresses.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, bail};
use regorus::Value;

use super::{Entry, string};

pub const ENTRIES: &[Entry] = &[
    ("net.cidr_contains", 2, contains),
    ("net.cidr_intersects", 2, |v| {
        let (one, other) = (Network::parse(string(v, 0)?)?, Network::parse(string(v, 1)?)?);
        Ok(Value::from(one.contains(other.first) || other.contains(one.first)))
    }),
    ("net.cidr_is_valid", 1, |v| Ok(Value::from(Network::parse(string(v, 0)?).is_ok()))),
];

fn contains(values: &[Value]) -> Result<Value> {
    let network = Network::parse(string(values, 0)?)?;
    let text = string(values, 1)?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Value::from(network.contains(address)));
    }
    let inner = Network::parse(text)?;
    Ok(Value::from(network.contains(inner.first) && network.contains(inner.last)))
}

/// Addresses of a network; an IPv4 address in IPv6 form (`::ffff:a.b.c.d`) counts as IPv4.
struct Network {
    first: IpAddr,
    last: IpAddr,
}

impl Network {
    fn parse(text: &str) -> Result<Self> {
        let Some((address, length)) = text.split_once('/') else { bail!("invalid CIDR address") };
        let address: IpAddr = address.parse()?;
        let bits: u32 = if address.is_ipv4() { 32 } else { 128 };
        if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
            bail!("invalid CIDR address");
        }
        let length: u32 = length.parse()?;
        if length > bits {
            bail!("invalid CIDR address");
        }
        let host = u128::MAX.checked_shr(128 - (bits - length)).unwrap_or(0);
        Ok(match address {
            IpAddr::V4(address) => {
                let (value, host) = (u32::from(address), host as u32);
                let [first, last] = [value & !host, value | host].map(Ipv4Addr::from);
                Self { first: first.into(), last: last.into() }
            }
            IpAddr::V6(address) => {
                let value = u128::from(address);
                let [first, last] = [value & !host, value | host].map(std::net::Ipv6Addr::from);
                Self { first: first.into(), last: last.into() }
            }
        })
    }

    fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let (first, last) = (self.first.to_canonical(), self.last.to_canonical());
        first.is_ipv4() == address.is_ipv4() && first <= address && address <= last
    }
}
