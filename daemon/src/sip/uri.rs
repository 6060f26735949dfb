//! SIP URIs and name-addr header values (RFC 3261 §19.1, §20.10). Enters: text from the network; leaves: slices of it.
//! Nothing is decoded beyond what routing needs, and nothing here can fail louder than `None`.

use super::transaction::Transport;

/// `"Display" <sip:user@host>;tag=x`, or the same without brackets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameAddr<'a> {
    /// The URI without brackets.
    pub uri: &'a str,
    params: &'a str,
}

impl<'a> NameAddr<'a> {
    /// Reads the first value of a From, To, Contact, Route or Record-Route header.
    pub fn parse(value: &'a str) -> Option<Self> {
        let value = value.trim();
        let (uri, params) = match find_unquoted(value, '<') {
            Some(open) => {
                let rest = value.get(open + 1..)?;
                let (uri, after) = rest.split_once('>')?;
                (uri, after)
            }
            // Without brackets the parameters belong to the header, not to the URI.
            None => value.split_once(';').unwrap_or((value, "")),
        };
        let uri = uri.trim();
        let params = params.trim().trim_start_matches(';');
        if uri.is_empty() || uri.contains(char::is_whitespace) { None } else { Some(Self { uri, params }) }
    }

    /// A header parameter, such as `tag`; empty text for a flag.
    pub fn param(&self, name: &str) -> Option<&'a str> {
        param(self.params, name)
    }
}

/// The parts of a `sip:` or `sips:` URI that routing needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uri<'a> {
    /// User part, still percent-encoded; empty when absent.
    pub user: &'a str,
    /// Host name or address, without the brackets of IPv6.
    pub host: &'a str,
    /// Port, if one is written.
    pub port: Option<u16>,
    /// `sips:`.
    pub secure: bool,
    params: &'a str,
}

impl<'a> Uri<'a> {
    /// Reads a SIP URI; `None` for other schemes and for nonsense.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once(':')?;
        let secure = if scheme.eq_ignore_ascii_case("sip") {
            false
        } else if scheme.eq_ignore_ascii_case("sips") {
            true
        } else {
            return None;
        };
        let rest = rest.split_once('?').map_or(rest, |(head, _)| head);
        // A user part may hold ';' (tel-style parameters), so the '@' is looked for first.
        let (userinfo, rest) = rest.rsplit_once('@').unwrap_or(("", rest));
        let user = userinfo.split_once(':').map_or(userinfo, |(user, _)| user);
        let (hostport, params) = rest.split_once(';').unwrap_or((rest, ""));
        let (host, port) = if let Some(rest) = hostport.strip_prefix('[') {
            let (host, after) = rest.split_once(']')?;
            (host, after.strip_prefix(':'))
        } else {
            hostport.split_once(':').map_or((hostport, None), |(host, port)| (host, Some(port)))
        };
        let port = match port {
            Some(port) => Some(port.parse().ok()?),
            None => None,
        };
        if host.is_empty() || host.contains(char::is_whitespace) {
            return None;
        }
        Some(Self { user, host, port, secure, params })
    }

    /// A URI parameter, such as `transport` or `lr`; empty text for a flag.
    pub fn param(&self, name: &str) -> Option<&'a str> {
        param(self.params, name)
    }

    /// What `;transport=` or `sips:` ask for (RFC 3261 §26.2.2: `sips:` is TLS, whatever else is written).
    pub fn transport(&self) -> Option<Transport> {
        let named = |name: &str| self.param("transport").is_some_and(|t| t.eq_ignore_ascii_case(name));
        match self.secure {
            true => Some(Transport::Tls),
            false if named("tls") => Some(Transport::Tls),
            false if named("tcp") => Some(Transport::Tcp),
            false if named("udp") => Some(Transport::Udp),
            false => None,
        }
    }

    /// The port, or the protocol's.
    pub fn port_for(&self, transport: Transport) -> u16 {
        self.port.unwrap_or_else(|| transport.default_port())
    }
}

/// The number or name that a Request-URI asks for, as operators write it: the user part of `sip:` and `sips:` without its
/// parameters (RFC 3261 §19.1.6: number portability, `phone-context`), the digits of `tel:` (RFC 3966).
pub fn called_number(uri: &str) -> String {
    let (scheme, rest) = uri.trim().split_once(':').unwrap_or(("", ""));
    let tel = scheme.eq_ignore_ascii_case("tel");
    let user = if tel { rest } else { Uri::parse(uri).map_or("", |uri| uri.user) };
    let user = user.split(';').next().unwrap_or("");
    let user = percent_encoding::percent_decode_str(user).decode_utf8_lossy();
    // Visual separators; without them the number is the same.
    if tel { user.chars().filter(|c| !"-.()".contains(*c)).collect() } else { user.into_owned() }
}

/// A parameter of a `;a=b;c` list.
pub fn param<'a>(list: &'a str, name: &str) -> Option<&'a str> {
    list.split(';').find_map(|p| {
        let (key, value) = p.split_once('=').unwrap_or((p, ""));
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"'))
    })
}

/// Splits a header value at commas outside quotes and brackets.
pub fn split_list(value: &str) -> Vec<&str> {
    let (mut parts, mut start, mut quoted, mut escaped, mut depth) = (Vec::new(), 0, false, false, 0_u32);
    for (at, c) in value.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '<' if !quoted => depth += 1,
            '>' if !quoted => depth = depth.saturating_sub(1),
            ',' if !quoted && depth == 0 => {
                parts.extend(value.get(start..at));
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.extend(value.get(start..));
    parts.into_iter().map(str::trim).filter(|p| !p.is_empty()).collect()
}

fn find_unquoted(text: &str, wanted: char) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            c if c == wanted && !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_called_number_has_no_parameters() {
        for (uri, number) in [
            ("sip:+12125551212;npdi;rn=+12125550000@10.0.0.1:5060;user=phone", "+12125551212"),
            ("sip:%2B49301234;phone-context=+49@trunk.example", "+49301234"),
            ("tel:+49-30-(0)1234;phone-context=x", "+493001234"),
            ("sips:reception:secret@host", "reception"),
            ("sip:10.0.0.1", ""),
            ("nonsense", ""),
        ] {
            assert_eq!(called_number(uri), number, "{uri}");
        }
    }

    #[test]
    fn name_addr_forms() {
        let a = NameAddr::parse("\"A <b>\" <sip:bob@h:5070;transport=tcp>;tag=x1").unwrap();
        assert_eq!((a.uri, a.param("tag")), ("sip:bob@h:5070;transport=tcp", Some("x1")));
        let a = NameAddr::parse("sip:bob@h;tag=y").unwrap();
        assert_eq!((a.uri, a.param("TAG")), ("sip:bob@h", Some("y")));
        assert!(NameAddr::parse("<sip:x").is_none());
        assert!(NameAddr::parse("").is_none());
    }

    #[test]
    fn uri_forms() {
        let u = Uri::parse("sip:+49;x=1@[::1]:5070;lr;transport=TCP?h=v").unwrap();
        assert_eq!((u.user, u.host, u.port, u.transport()), ("+49;x=1", "::1", Some(5070), Some(Transport::Tcp)));
        assert_eq!(u.param("lr"), Some(""));
        let secure = Uri::parse("sips:[::1];transport=tcp").unwrap();
        assert_eq!((secure.transport(), secure.port_for(Transport::Tls)), (Some(Transport::Tls), 5061));
        assert_eq!(Uri::parse("sip:h;transport=TLS").unwrap().port_for(Transport::Tls), 5061);
        for bad in ["tel:+1", "sip:", "sip:h:99999", "sip:[::1", "x"] {
            assert!(Uri::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn lists_split_outside_quotes_and_brackets() {
        assert_eq!(split_list("\"a,b\" <sip:c,d>;x, <sip:e>"), ["\"a,b\" <sip:c,d>;x", "<sip:e>"]);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_survived(text in ".{0,80}") {
            NameAddr::parse(&text);
            Uri::parse(&text);
            split_list(&text);
        }
    }
}
