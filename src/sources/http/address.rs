//! Which hosts and addresses may be asked, so that a name or a configuration of somebody else cannot turn the loader
//! against the network that it runs in.
//!
//! Names are resolved once per request, every address is checked, and the connection goes to one of those addresses and
//! no other: a name that resolves differently a moment later changes nothing. Addresses in a URL are never resolved;
//! they are checked when the source is made.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// `allow_hosts`: the names and networks that a source may be on.
///
/// A name has to match one of the names: `api.example.com`, `*.example.org` (any name below), `*` (any). An address has
/// to be in one of the networks: `10.1.0.0/16`, `192.0.2.7`, `fd00::/8`. A name that resolves to a loopback or private
/// address needs both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AllowHosts {
    names: Vec<String>,
    networks: Vec<Network>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Network {
    /// As [`plain`] shows it.
    address: IpAddr,
    prefix: u8,
}

/// Why an entry of `allow_hosts` is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not the name of a host, an address or a network")]
pub struct AllowHostError;

/// A host that may not be asked.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum HostRefused {
    /// No name or network lets it pass.
    #[error("the host {0} is not in allow_hosts; add it if the source is meant to be there")]
    NotAllowed(String),
    /// An address that is reachable from here alone, or that no source is on.
    #[error(
        "{host} is at {address}, {what}; add \"{address}\" to allow_hosts if the source is meant to be there"
    )]
    Address {
        /// The host as it is named in the URL.
        host: String,
        /// What it resolved to.
        address: IpAddr,
        /// What kind of address that is.
        what: &'static str,
    },
}

impl AllowHosts {
    /// Adds an entry.
    ///
    /// # Errors
    ///
    /// It is neither a name, a pattern, an address nor a network.
    pub fn add(&mut self, entry: &str) -> Result<(), AllowHostError> {
        if let Some(network) = parse_network(entry) {
            self.networks.push(network);
            return Ok(());
        }
        let (star, rest) = match entry.strip_prefix("*.") {
            Some(rest) => ("*.", rest),
            None => ("", entry),
        };
        let name = match Host::parse(rest) {
            _ if entry == "*" => String::new(),
            Ok(Host::Domain(name)) if !name.contains(['*', ':', '/']) => name,
            _ => return Err(AllowHostError),
        };
        let name = name.trim_end_matches('.');
        self.names.push(if entry == "*" { "*".to_owned() } else { format!("{star}{name}") });
        Ok(())
    }

    fn has_name(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        self.names.iter().any(|pattern| match pattern.strip_prefix('*') {
            Some(rest) => name.len() > rest.len() && name.ends_with(rest),
            None => name == *pattern,
        })
    }

    fn has_address(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(address))
    }
}

/// The address to which an address leads, whatever form it is written in: IPv4 inside IPv6 (mapped, compatible, NAT64,
/// 6to4) is IPv4.
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let segments = v6.segments();
    let four = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    if segments[..6] == [0; 6] && segments[6] != 0 {
        return four(segments[6], segments[7]);
    }
    match segments {
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 1, _, _, _, high, low]
        | [0x2002, high, low, ..] => four(high, low),
        _ => address,
    }
}

fn parse_network(entry: &str) -> Option<Network> {
    let (address, prefix) = match entry.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix.parse::<u8>().ok()?)),
        None => (entry, None),
    };
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let written = IpAddr::from_str(address).ok()?;
    let address = plain(written);
    let all = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
    // A prefix counts the bits of the address as it is written: 96 more than those of the IPv4 address inside.
    let inside = if address.is_ipv4() == written.is_ipv4() { 0 } else { 96 };
    let prefix = prefix.unwrap_or(all(written));
    let fits = (inside..=all(written)).contains(&prefix);
    fits.then(|| Network { address, prefix: prefix - inside })
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        let shifted =
            |bits: u128, width: u8| bits.checked_shr(u32::from(width - self.prefix)).unwrap_or(0);
        match (self.address, plain(address)) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let bits = |address: Ipv4Addr| shifted(u128::from(address.to_bits()), 32);
                bits(own) == bits(other)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let bits = |address: Ipv6Addr| shifted(address.to_bits(), 128);
                bits(own) == bits(other)
            }
            _ => false,
        }
    }
}

/// Who may reach an address.
enum Reach {
    Everybody,
    /// Loopback or private: fine in a network of one's own, refused where `allow_hosts` is set and does not name it.
    Ours(&'static str),
    /// Never, unless `allow_hosts` names it.
    Nobody(&'static str),
}

/// Services of clouds that hand out the machine's own credentials, besides the link-local 169.254.169.254.
const METADATA: &[IpAddr] = &[
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

fn reach(address: IpAddr) -> Reach {
    let address = plain(address);
    if METADATA.contains(&address) {
        return Reach::Nobody("a metadata service of a cloud");
    }
    if address.is_multicast() {
        return Reach::Nobody("a multicast address");
    }
    match address {
        IpAddr::V4(v4) => match v4.octets() {
            [169, 254, 169, 254] => Reach::Nobody("a metadata service of a cloud"),
            [169, 254, ..] => Reach::Nobody("a link-local address"),
            [0, ..] => Reach::Nobody("an unspecified address"),
            [255, 255, 255, 255] => Reach::Nobody("the broadcast address"),
            [240..=255, ..] => Reach::Nobody("a reserved address"),
            [127, ..] => Reach::Ours("a loopback address"),
            [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => {
                Reach::Ours("a private address")
            }
            _ => Reach::Everybody,
        },
        IpAddr::V6(v6) if v6.is_unspecified() => Reach::Nobody("an unspecified address"),
        IpAddr::V6(v6) if v6.is_loopback() => Reach::Ours("a loopback address"),
        IpAddr::V6(v6) => match v6.segments()[0] {
            0xfe80..=0xfebf => Reach::Nobody("a link-local address"),
            0xfc00..=0xfdff | 0xfec0..=0xfeff => Reach::Ours("a private address"),
            _ => Reach::Everybody,
        },
    }
}

/// Checks an address that a name resolved to, or that stands in a URL.
fn check_address(
    allow: Option<&AllowHosts>,
    host: &str,
    address: IpAddr,
) -> Result<(), HostRefused> {
    if allow.is_some_and(|allow| allow.has_address(address)) {
        return Ok(());
    }
    match (reach(address), allow) {
        (Reach::Everybody, _) | (Reach::Ours(_), None) => Ok(()),
        (Reach::Nobody(what), _) | (Reach::Ours(what), Some(_)) => {
            Err(HostRefused::Address { host: host.to_owned(), address, what })
        }
    }
}

/// Checks what can be told of a URL without resolving its name.
///
/// # Errors
///
/// The host is not in the list, or is an address that is always refused.
pub fn check_url(allow: Option<&AllowHosts>, url: &Url) -> Result<(), HostRefused> {
    let address: IpAddr = match url.host() {
        Some(Host::Domain(name)) => {
            return match allow {
                Some(allow) if !allow.has_name(name) => {
                    Err(HostRefused::NotAllowed(name.to_owned()))
                }
                _ => Ok(()),
            };
        }
        Some(Host::Ipv4(v4)) => v4.into(),
        Some(Host::Ipv6(v6)) => v6.into(),
        None => return Ok(()),
    };
    check_address(allow, "the host", address)?;
    match allow {
        Some(allow) if !allow.has_address(address) => {
            Err(HostRefused::NotAllowed(address.to_string()))
        }
        _ => Ok(()),
    }
}

/// Resolves with another resolver, and lets only checked addresses through.
pub(super) struct CheckedResolver {
    pub(super) inner: Arc<dyn Resolve>,
    pub(super) allow: Option<AllowHosts>,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (host, allow) = (name.as_str().to_owned(), self.allow.clone());
        let resolving = self.inner.resolve(name);
        Box::pin(async move {
            let mut refused = None;
            let mut passed = Vec::new();
            for address in resolving.await? {
                match check_address(allow.as_ref(), &host, address.ip()) {
                    Ok(()) => passed.push(address),
                    Err(error) => refused = Some(error),
                }
            }
            match refused {
                Some(error) if passed.is_empty() => Err(error.into()),
                _ => Ok(Box::new(passed.into_iter()) as Addrs),
            }
        })
    }
}

/// The machine's own resolver.
#[derive(Debug)]
pub(super) struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let addresses = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(Box::new(addresses.collect::<Vec<_>>().into_iter()) as Addrs)
        })
    }
}

impl fmt::Debug for CheckedResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckedResolver").field("allow", &self.allow).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(entries: &[&str]) -> AllowHosts {
        let mut allow = AllowHosts::default();
        for entry in entries {
            allow.add(entry).unwrap_or_else(|error| panic!("{entry}: {error}"));
        }
        allow
    }

    #[test]
    fn some_addresses_are_refused_unless_they_are_listed() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.1.1",
            "224.0.0.1",
            "239.255.255.250",
            "255.255.255.255",
            "250.1.2.3",
            "100.100.100.200",
            "168.63.129.16",
            "::",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "::ffff:0:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
        ] {
            let ip: IpAddr = address.parse().unwrap();
            let error = check_address(None, "h", ip).unwrap_err();
            assert!(matches!(error, HostRefused::Address { .. }), "{address}");
            assert!(check_address(Some(&allow(&["*"])), "h", ip).is_err(), "{address}");
            assert_eq!(check_address(Some(&allow(&[address])), "h", ip), Ok(()), "{address}");
        }
    }

    #[test]
    fn our_own_networks_are_refused_where_a_list_does_not_name_them() {
        for (address, network) in [
            ("127.0.0.1", "127.0.0.0/8"),
            ("10.1.2.3", "10.0.0.0/8"),
            ("172.31.0.1", "172.16.0.0/12"),
            ("192.168.1.1", "192.168.1.1"),
            ("100.64.0.1", "100.64.0.0/10"),
            ("::1", "::1/128"),
            ("fd12::1", "fc00::/7"),
            ("::ffff:10.1.2.3", "10.1.2.0/24"),
            ("10.1.2.3", "::ffff:10.1.0.0/112"),
            ("64:ff9b::7f00:1", "127.0.0.1"),
        ] {
            let ip: IpAddr = address.parse().unwrap();
            assert_eq!(check_address(None, "h", ip), Ok(()), "{address}");
            assert!(check_address(Some(&allow(&["h"])), "h", ip).is_err(), "{address}");
            assert_eq!(check_address(Some(&allow(&["h", network])), "h", ip), Ok(()), "{address}");
        }
        for address in ["8.8.8.8", "2a00::1", "172.32.0.1", "100.128.0.1", "64:ff9b::808:808"] {
            let ip = address.parse().unwrap();
            assert_eq!(check_address(Some(&allow(&["h"])), "h", ip), Ok(()), "{address}");
        }
    }

    #[test]
    fn a_url_is_checked_by_name_and_by_address() {
        let list = allow(&["api.Example.com", "*.example.org", "10.1.0.0/16", "bücher.example"]);
        for (url, is_allowed) in [
            ("https://api.example.com/x", true),
            ("https://API.EXAMPLE.COM./x", true),
            ("https://www.api.example.com/", false),
            ("https://a.b.example.org/", true),
            ("https://example.org/", false),
            ("https://notexample.org/", false),
            ("https://xn--bcher-kva.example/", true),
            ("http://10.1.255.1/", true),
            ("http://10.2.0.1/", false),
            ("http://8.8.8.8/", false),
            ("http://[::ffff:10.1.0.1]/", true),
            ("http://0x0a010001/", true),
        ] {
            let url: Url = url.parse().unwrap();
            assert_eq!(check_url(Some(&list), &url).is_ok(), is_allowed, "{url}");
        }
        for (url, is_allowed) in [
            ("http://localhost/", true),
            ("http://127.1/", true),
            ("http://[::1]/", true),
            ("http://2852039166/latest/meta-data", false),
            ("http://[::ffff:a9fe:a9fe]/", false),
        ] {
            let url: Url = url.parse().unwrap();
            assert_eq!(check_url(None, &url).is_ok(), is_allowed, "{url}");
        }
    }

    #[test]
    fn what_is_no_host_is_no_entry() {
        let wrong =
            ["", "*.", "a b", "10.0.0.0/33", "::/129", "http://x", "x:80", "a.*.b", "10.0.0.0/x"];
        for entry in wrong {
            assert_eq!(AllowHosts::default().add(entry), Err(AllowHostError), "{entry}");
        }
    }
}
