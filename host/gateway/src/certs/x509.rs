//! Reads the fields of an X.509 certificate (RFC 5280 §4.1) that the gateway shows to others. It verifies nothing: rustls does, and takes
//! only DER. A reader of these few fields is shorter than what a crate for all of X.509 brings with it.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use data_encoding::HEXLOWER;
use jiff::civil::{DateTime, date};

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const NUMERIC_STRING: u8 = 0x12;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// Tags of context: the version and the extensions of a certificate.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// Tags of context: kinds of alternative names (RFC 5280 §4.2.1.6).
const EMAIL: u8 = 0x81;
const DNS_NAME: u8 = 0x82;
const URI: u8 = 0x86;
const IP_ADDRESS: u8 = 0x87;
/// Tag of context: the identifier of the authority's key (RFC 5280 §4.2.1.1).
const KEY_IDENTIFIER: u8 = 0x80;
/// 2.5.29.17
const SUBJECT_ALT_NAME: [u8; 3] = [0x55, 0x1d, 0x11];
/// 2.5.29.35
const AUTHORITY_KEY_IDENTIFIER: [u8; 3] = [0x55, 0x1d, 0x23];

/// The attributes that have a short name (RFC 4514 §3), and that of e-mail addresses, which all tools know.
const ATTRIBUTES: [(&str, &str); 10] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// What a certificate says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    /// RFC 4514, such as `CN=alice,O=Acme`.
    pub(super) subject: String,
    pub(super) issuer: String,
    /// Hexadecimal.
    pub(super) serial: String,
    /// Hexadecimal; empty where it does not say it.
    pub(super) authority_key: String,
    /// Seconds since the Unix epoch.
    pub(super) not_before: i64,
    pub(super) not_after: i64,
    pub(super) dns_names: Vec<String>,
    pub(super) uris: Vec<String>,
    pub(super) emails: Vec<String>,
    pub(super) ip_addresses: Vec<String>,
}

impl Fields {
    /// Reads a certificate in DER. `None`: it is none.
    pub(super) fn read(der: &[u8]) -> Option<Fields> {
        let mut certificate = Elements(Elements(der).value_of(SEQUENCE)?);
        let mut signed = Elements(certificate.value_of(SEQUENCE)?);
        signed.take_optional(VERSION)?;
        let serial = HEXLOWER.encode(signed.value_of(INTEGER)?);
        signed.value_of(SEQUENCE)?;
        let issuer = distinguished_name(signed.value_of(SEQUENCE)?)?;
        let mut validity = Elements(signed.value_of(SEQUENCE)?);
        let (not_before, not_after) = (time(&validity.next()??)?, time(&validity.next()??)?);
        let subject = distinguished_name(signed.value_of(SEQUENCE)?)?;
        let mut fields = Fields { subject, issuer, serial, not_before, not_after, ..Fields::default() };
        for element in signed {
            let element = element?;
            if element.tag == EXTENSIONS {
                for extension in Elements(Elements(element.value).value_of(SEQUENCE)?) {
                    fields.extension(extension?.value)?;
                }
            }
        }
        Some(fields)
    }

    fn extension(&mut self, extension: &[u8]) -> Option<()> {
        let mut extension = Elements(extension);
        let kind = extension.value_of(OID)?;
        if kind != SUBJECT_ALT_NAME && kind != AUTHORITY_KEY_IDENTIFIER {
            return Some(());
        }
        // Before it there may be whether the extension is critical.
        let value = extension.flatten().find(|element| element.tag == OCTET_STRING)?;
        if kind == AUTHORITY_KEY_IDENTIFIER {
            let mut parts = Elements(Elements(value.value).value_of(SEQUENCE)?).flatten();
            let key = parts.find(|part| part.tag == KEY_IDENTIFIER);
            self.authority_key = key.map(|key| HEXLOWER.encode(key.value)).unwrap_or_default();
            return Some(());
        }
        for name in Elements(Elements(value.value).value_of(SEQUENCE)?) {
            let name = name?;
            let text = || str::from_utf8(name.value).ok().map(str::to_owned);
            match name.tag {
                EMAIL => self.emails.push(text()?),
                DNS_NAME => self.dns_names.push(text()?),
                URI => self.uris.push(text()?),
                IP_ADDRESS => self.ip_addresses.push(address(name.value)?),
                _ => {}
            }
        }
        Some(())
    }
}

/// An element of DER (X.690 §8.1).
struct Element<'a> {
    tag: u8,
    value: &'a [u8],
    /// With tag and length.
    whole: &'a [u8],
}

/// The elements that are left. It ends after one that is malformed, which is `None`.
struct Elements<'a>(&'a [u8]);

impl<'a> Iterator for Elements<'a> {
    type Item = Option<Element<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let element = split(self.0);
        self.0 = element.as_ref().and_then(|element| self.0.get(element.whole.len()..)).unwrap_or_default();
        Some(element)
    }
}

impl<'a> Elements<'a> {
    /// The value of the next element, which has this tag.
    fn value_of(&mut self, tag: u8) -> Option<&'a [u8]> {
        let element = self.next()??;
        (element.tag == tag).then_some(element.value)
    }

    /// Leaves an element out that may be there. `None`: something malformed is.
    fn take_optional(&mut self, tag: u8) -> Option<()> {
        if self.0.first() == Some(&tag) {
            self.next()??;
        }
        Some(())
    }
}

fn split(bytes: &[u8]) -> Option<Element<'_>> {
    let [tag, first, rest @ ..] = bytes else { return None };
    let (length, start) = match *first {
        short @ ..=0x7f => (usize::from(short), 2),
        long => {
            let count = usize::from(long & 0x7f);
            let length = rest.get(..count).filter(|_| (1..=4).contains(&count))?;
            (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), 2 + count)
        }
    };
    let whole = bytes.get(..start.checked_add(length)?)?;
    Some(Element { tag: *tag, value: &whole[start..], whole })
}

/// RFC 5280 §4.1.2.5: to the second, and in UTC.
fn time(element: &Element<'_>) -> Option<i64> {
    let text = str::from_utf8(element.value).ok().filter(|text| text.is_ascii())?.strip_suffix('Z')?;
    let (century, text) = match element.tag {
        // Two digits of the year: those from 50 on are of the 20th century.
        UTC_TIME => (if text.get(..2)? < "50" { "20" } else { "19" }, text),
        GENERALIZED_TIME => (text.get(..2)?, text.get(2..)?),
        _ => return None,
    };
    if text.len() != 12 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part = |at: usize| text[at..at + 2].parse::<i8>().ok();
    let year = format!("{century}{}", &text[..2]).parse().ok()?;
    let civil = DateTime::new(year, part(2)?, part(4)?, part(6)?, part(8)?, part(10)?, 0).ok()?;
    // By the calendar alone: an instant of jiff ends before 9999-12-31, which stands for "never" (RFC 5280 §4.1.2.5).
    Some(civil.duration_since(date(1970, 1, 1).at(0, 0, 0, 0)).as_secs())
}

/// A name as RFC 4514 writes it: the last element first, and escaped, so that no value can look like an element of its own.
fn distinguished_name(name: &[u8]) -> Option<String> {
    let mut elements = Vec::new();
    for element in Elements(name) {
        let element = element.filter(|element| element.tag == SET)?;
        let attributes = Elements(element.value).map(|pair| attribute(pair?.value)).collect::<Option<Vec<_>>>()?;
        elements.push(attributes.join("+"));
    }
    elements.reverse();
    Some(elements.join(","))
}

fn attribute(pair: &[u8]) -> Option<String> {
    let mut pair = Elements(pair);
    let oid = dotted(pair.value_of(OID)?);
    let value = pair.next()??;
    let known = ATTRIBUTES.iter().find(|(known, _)| *known == oid).map(|(_, name)| *name);
    let text = match value.tag {
        UTF8_STRING | NUMERIC_STRING | PRINTABLE_STRING | IA5_STRING => str::from_utf8(value.value).ok(),
        _ => None,
    };
    Some(match (known, text) {
        (Some(name), Some(text)) => format!("{name}={}", escaped(text)),
        // RFC 4514 §2.4: a value without a string form, or of an unknown type, is written as bytes.
        (name, _) => format!("{}=#{}", name.unwrap_or(&oid), HEXLOWER.encode(value.whole)),
    })
}

/// RFC 4514 §2.4.
fn escaped(text: &str) -> String {
    let last = text.chars().count().saturating_sub(1);
    let mut out = String::with_capacity(text.len());
    for (at, character) in text.chars().enumerate() {
        match character {
            '\0'..='\x1f' | '\x7f' => {
                let _ = write!(out, "\\{:02x}", u32::from(character));
                continue;
            }
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => out.push('\\'),
            ' ' if at == 0 || at == last => out.push('\\'),
            '#' if at == 0 => out.push('\\'),
            _ => {}
        }
        out.push(character);
    }
    out
}

/// An object identifier as numbers (X.690 §8.19).
fn dotted(oid: &[u8]) -> String {
    let mut out = String::new();
    let mut number = 0_u64;
    for byte in oid {
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 != 0 {
            continue;
        }
        // The first number is of two.
        let _ = match out.as_str() {
            "" => write!(out, "{}.{}", (number / 40).min(2), number - (number / 40).min(2) * 40),
            _ => write!(out, ".{number}"),
        };
        number = 0;
    }
    out
}

fn address(bytes: &[u8]) -> Option<String> {
    let four = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(|bytes| Ipv4Addr::from(bytes).to_string());
    let sixteen = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).ok().map(|bytes| Ipv6Addr::from(bytes).to_string());
    four(bytes).or_else(|| sixteen(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate() -> Vec<u8> {
        let mut params = rcgen::CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2026, 2, 3);
        params.not_after = rcgen::date_time_ymd(2051, 12, 31);
        params.subject_alt_names = vec![rcgen::SanType::IpAddress("2001:db8::1".parse().expect("an address"))];
        let key = rcgen::KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().to_vec()
    }

    #[test]
    fn times_before_and_after_2050_are_read() {
        let fields = Fields::read(&certificate()).expect("a certificate");
        assert_eq!((fields.not_before, fields.not_after), (1_770_076_800, 2_587_593_600));
        assert_eq!(fields.ip_addresses, ["2001:db8::1"]);
    }

    #[test]
    fn a_certificate_that_never_ends_is_read() {
        let element = |tag, value: &'static [u8]| Element { tag, value, whole: value };
        assert_eq!(time(&element(GENERALIZED_TIME, b"99991231235959Z")), Some(253_402_300_799));
        assert_eq!(time(&element(UTC_TIME, b"491231235959Z")), Some(2_524_607_999));
    }

    #[test]
    fn no_bytes_panic() {
        let good = certificate();
        for length in 0..good.len() {
            assert_eq!(Fields::read(&good[..length]), None, "cut after {length} bytes");
        }
        for at in 0..good.len() {
            for byte in [0, 0x7f, 0x80, 0x84, 0xff] {
                let mut broken = good.clone();
                broken[at] = byte;
                let _ = Fields::read(&broken);
            }
        }
    }

    #[test]
    fn object_identifiers_are_numbers() {
        assert_eq!(dotted(&[0x55, 0x04, 0x03]), "2.5.4.3");
        assert_eq!(dotted(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01]), "1.2.840.113549.1.9.1");
        assert_eq!(dotted(&[0x88, 0x37]), "2.999");
    }
}
