//! The signalling of a call for people: a ladder in the terminal, or a capture that Wireshark, tshark and sngrep read, with
//! its audio if that was captured. Enters: what the daemon remembers; leaves: text, or a pcap file. Never here: a secret;
//! the daemon keeps none.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use callbox::control::{Trace, TracedMessage, TracedPacket};

use crate::printable::printable;

/// Columns between the two lines of a ladder.
const WIDTH: usize = 46;

/// Time from the first message, an arrow, what it says: one line for each message.
pub(crate) fn ladder(trace: &Trace) -> String {
    let mut peers: Vec<SocketAddr> = Vec::new();
    for message in &trace.messages {
        if !peers.contains(&message.peer) {
            peers.push(message.peer);
        }
    }
    let mut text = String::new();
    let Some(first) = trace.messages.first() else { return text };
    // Writing to a String does not fail.
    let mut line = |arguments: std::fmt::Arguments<'_>| writeln!(text, "{arguments}").unwrap_or_default();
    line(format_args!("call {}: callbox is {} over {}", trace.id, first.local, first.transport));
    for (number, peer) in peers.iter().enumerate() {
        line(format_args!("  peer {}: {peer}", number + 1));
    }
    line(format_args!(""));
    line(format_args!("{:>10}  {:<width$}  callbox", "seconds", "peer", width = WIDTH + 1));
    for message in &trace.messages {
        let micros = message.at_us.saturating_sub(first.at_us);
        let number = peers.iter().position(|peer| *peer == message.peer).map_or(0, |at| at + 1);
        let said = label(&message.message);
        let space = WIDTH.saturating_sub(said.chars().count() + 4);
        let arrow = match message.sent {
            true => format!("<{} {said} {}", "-".repeat(space.div_ceil(2)), "-".repeat(space / 2 + 1)),
            false => format!("{} {said} {}>", "-".repeat(space / 2 + 1), "-".repeat(space.div_ceil(2))),
        };
        let (seconds, rest) = (micros / 1_000_000, micros % 1_000_000 / 1000);
        let via = if message.transport == first.transport { "" } else { message.transport.as_str() };
        line(format_args!("{seconds:>6}.{rest:03} {number}|{arrow}| {via}"));
    }
    text
}

/// `INVITE (SDP)`, `200 OK to INVITE`: nothing that names anybody, nothing that moves a cursor.
fn label(message: &str) -> String {
    let (head, body) = message.split_once("\r\n\r\n").unwrap_or((message, ""));
    let mut lines = head.lines();
    let first = lines.next().unwrap_or_default();
    let field = |name: &str| {
        head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.trim().eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    let method = field("CSeq").and_then(|cseq| cseq.split_whitespace().nth(1)).unwrap_or_default();
    let mut label = match first.strip_prefix("SIP/2.0 ") {
        Some(status) => format!("{} ({method})", status.chars().take(28).collect::<String>()),
        None => first.split(' ').next().unwrap_or_default().chars().take(20).collect(),
    };
    if body.starts_with("v=0") {
        label.push_str(" SDP");
    }
    printable(&label)
}

/// Writes a capture of mode 0600: it names the caller.
pub(crate) fn write(trace: &Trace, packets: &[TracedPacket], path: &Path) -> anyhow::Result<()> {
    let open = || std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    open()
        .and_then(|mut file| io::Write::write_all(&mut file, &pcap(&trace.messages, packets)))
        .with_context(|| format!("{} cannot be written", path.display()))?;
    let audio = if packets.is_empty() { String::new() } else { format!(", {} packets of audio", packets.len()) };
    println!("{}: {} messages{audio}", path.display(), trace.messages.len());
    Ok(())
}

/// The classic format, nanoseconds aside: <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-03.html>; link type 101
/// (LINKTYPE_RAW): the packets begin with their IP header.
fn pcap(messages: &[TracedMessage], packets: &[TracedPacket]) -> Vec<u8> {
    let mut datagrams: Vec<Datagram> = messages.iter().map(Datagram::of_message).collect();
    datagrams.extend(packets.iter().map(Datagram::of_packet));
    datagrams.sort_by_key(|datagram| datagram.at_us);
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 101] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    for datagram in datagrams {
        let packet = datagram.packet();
        let captured = u32::try_from(packet.len()).unwrap_or(u32::MAX);
        let length = captured.saturating_add(u32::try_from(datagram.length - datagram.body.len()).unwrap_or(0));
        let (seconds, micros) = (datagram.at_us / 1_000_000, datagram.at_us % 1_000_000);
        for word in [u32::try_from(seconds).unwrap_or(u32::MAX), u32::try_from(micros).unwrap_or(0), captured, length] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(&packet);
    }
    file
}

/// What goes into a capture as one.
struct Datagram {
    at_us: u64,
    from: SocketAddr,
    to: SocketAddr,
    /// Its first octets.
    body: Vec<u8>,
    /// Its true length.
    length: usize,
}

impl Datagram {
    fn of_message(message: &TracedMessage) -> Self {
        let (from, to) = if message.sent { (message.local, message.peer) } else { (message.peer, message.local) };
        // The longest that a datagram can hold; messages are shorter than that.
        let body: Vec<u8> = message.message.bytes().take(65_000).collect();
        Self { at_us: message.at_us, from, to, length: body.len(), body }
    }

    fn of_packet(packet: &TracedPacket) -> Self {
        let (from, to) = if packet.sent { (packet.local, packet.peer) } else { (packet.peer, packet.local) };
        let body = STANDARD.decode(&packet.octets).unwrap_or_default();
        Self { at_us: packet.at_us, from, to, length: packet.length.clamp(body.len(), 65_000), body }
    }

    fn packet(&self) -> Vec<u8> {
        let length = u16::try_from(self.length + 8).unwrap_or(u16::MAX);
        let mut udp = Vec::new();
        for word in [self.from.port(), self.to.port(), length, 0] {
            udp.extend_from_slice(&word.to_be_bytes());
        }
        udp.extend_from_slice(&self.body);
        let (addresses, protocol) = addresses(self.from.ip(), self.to.ip());
        let mut pseudo = addresses.clone();
        pseudo.extend_from_slice(&u32::from(length).to_be_bytes());
        pseudo.extend_from_slice(&[0, 0, 0, 17]);
        pseudo.extend_from_slice(&udp);
        // Zero would mean that there is none (RFC 768).
        let sum = match checksum(&pseudo) {
            0 => 0xffff,
            sum => sum,
        };
        // Of what is cut off nobody knows the sum.
        if self.length == self.body.len()
            && let Some(slot) = udp.get_mut(6..8)
        {
            slot.copy_from_slice(&sum.to_be_bytes());
        }
        let mut packet = Vec::new();
        if protocol == 4 {
            let total = length.saturating_add(20);
            packet.extend_from_slice(&[0x45, 0]);
            packet.extend_from_slice(&total.to_be_bytes());
            packet.extend_from_slice(&[0, 0, 0x40, 0, 64, 17, 0, 0]);
            packet.extend_from_slice(&addresses);
            let sum = checksum(&packet);
            if let Some(slot) = packet.get_mut(10..12) {
                slot.copy_from_slice(&sum.to_be_bytes());
            }
        } else {
            packet.extend_from_slice(&[0x60, 0, 0, 0]);
            packet.extend_from_slice(&length.to_be_bytes());
            packet.extend_from_slice(&[17, 64]);
            packet.extend_from_slice(&addresses);
        }
        packet.extend_from_slice(&udp);
        packet
    }
}

/// Both addresses as they stand in a header, and of which version it is.
fn addresses(from: IpAddr, to: IpAddr) -> (Vec<u8>, u8) {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ([from.octets(), to.octets()].concat(), 4),
        (from, to) => {
            let octets = |ip| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            ([octets(from), octets(to)].concat(), 6)
        }
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        let word = [pair.first().copied().unwrap_or(0), pair.get(1).copied().unwrap_or(0)];
        sum += u32::from(u16::from_be_bytes(word));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(!sum & 0xffff).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(at_ms: u64, sent: bool, message: &str) -> TracedMessage {
        let at = |text: &str| text.parse().expect("an address");
        TracedMessage {
            at_us: 1_700_000_000_000_000 + at_ms * 1000,
            sent,
            transport: "UDP".into(),
            local: at("192.0.2.1:5060"),
            peer: at("192.0.2.9:5070"),
            message: message.replace('\n', "\r\n"),
        }
    }

    fn call() -> Trace {
        let messages = vec![
            said(0, false, "INVITE sip:1@a SIP/2.0\nCSeq: 1 INVITE\n\nv=0\n"),
            said(3, true, "SIP/2.0 200 OK\nCSeq: 1 INVITE\n\nv=0\n"),
            said(21, false, "ACK sip:1@a SIP/2.0\nCSeq: 1 ACK\n\n"),
            said(61_250, true, "BYE sip:2@b SIP/2.0\nCSeq: 1 BYE\n\n"),
            said(61_300, false, "SIP/2.0 481 \u{1b}[2J\nCSeq: 1 BYE\n\n"),
        ];
        Trace { id: "0000000000000007".into(), messages }
    }

    #[test]
    fn a_ladder_has_a_line_for_each_message() {
        let drawn = ladder(&call());
        let wanted = "\
call 0000000000000007: callbox is 192.0.2.1:5060 over UDP
  peer 1: 192.0.2.9:5070

   seconds  peer                                             callbox
     0.000 1|----------------- INVITE SDP ---------------->|
     0.003 1|<------------ 200 OK (INVITE) SDP ------------|
     0.021 1|-------------------- ACK -------------------->|
    61.250 1|<-------------------- BYE --------------------|
    61.300 1|--------------- 481 \u{fffd}[2J (BYE) -------------->|
";
        let trimmed = |text: &str| text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        println!("{drawn}");
        assert_eq!(trimmed(&drawn), trimmed(wanted));
    }

    #[test]
    fn packets_carry_addresses_and_sums_that_are_right() {
        let file = pcap(&call().messages, &[]);
        assert_eq!(&file[..4], &0xa1b2_c3d4_u32.to_le_bytes());
        let packet = |message: &TracedMessage| Datagram::of_message(message).packet();
        let invite = packet(&call().messages[0]);
        assert_eq!(checksum(&invite[..20]), 0, "a header with its sum adds up to nothing");
        assert_eq!((&invite[12..16], &invite[16..20]), (&[192, 0, 2, 9][..], &[192, 0, 2, 1][..]));
        assert_eq!(u16::from_be_bytes([invite[20], invite[21]]), 5070);
        let mut over6 = call().messages[0].clone();
        over6.peer = "[2001:db8::9]:5070".parse().expect("an address");
        let over6 = packet(&over6);
        assert_eq!((over6[0] >> 4, over6[6], over6.len() - 40), (6, 17, invite.len() - 20));
    }
}
