#!/usr/bin/env python3
"""Every packet of a network namespace, on every interface, judged. Enters: the addresses that may speak to each other, and
standard input, whose end is the end; leaves: one line, how many packets they exchanged, how many went anywhere else, how
many the kernel could not show us; then a line for each that went elsewhere, ten at most. Only the standard library.

Allowed are: IP and ARP between two of the addresses; within the machine everything but port 53, because a question to a
resolver is meant for outside; what the kernel itself sends for IPv6 (neighbours, groups). Nothing else.

    egress.py ADDRESS...
"""

import ipaddress
import select
import socket
import struct
import sys

SOL_PACKET, PACKET_STATISTICS, SO_RCVBUFFORCE = 263, 6, 33
IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD
# ICMPv6: router and neighbour discovery, reports of groups.
KERNEL = {133, 134, 135, 136, 143}


def judge(protocol, packet, known):
    """None if it is allowed, else what it is."""
    if protocol == ARP:
        source, target = (ipaddress.ip_address(packet[at : at + 4]) for at in (14, 24))
        return None if {source, target} <= known else f"ARP: {source} looks for {target}"
    if protocol == IPV4:
        source, target, kind = ipaddress.ip_address(packet[12:16]), ipaddress.ip_address(packet[16:20]), packet[9]
        rest = packet[(packet[0] & 15) * 4 :]
    elif protocol == IPV6:
        source, target, kind = ipaddress.ip_address(packet[8:24]), ipaddress.ip_address(packet[24:40]), packet[6]
        rest = packet[40:]
        # Reports of groups come behind a hop-by-hop header.
        if kind == 0 and rest[0] == 58:
            kind, rest = 58, rest[8:]
        if kind == 58 and rest and rest[0] in KERNEL:
            return None
    else:
        return f"protocol {protocol:#06x}"
    ports = struct.unpack("!HH", rest[:4]) if kind in (6, 17) and len(rest) >= 4 else (0, 0)
    within = source.is_loopback and target.is_loopback
    if 53 not in ports and (within or {source, target} <= known):
        return None
    return f"{source} to {target}, IP protocol {kind}, ports {ports[0]} to {ports[1]}"


def main():
    known = {ipaddress.ip_address(text) for text in sys.argv[1:]}
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
    print("watching", flush=True)
    peers, elsewhere = 0, []
    while True:
        ready, _, _ = select.select([tap, sys.stdin], [], [])
        if tap in ready:
            packet, (_, protocol, *_) = tap.recvfrom(65535)
            wrong = judge(protocol, packet, known)
            peers += wrong is None
            if wrong:
                elsewhere.append(wrong)
        elif not sys.stdin.read(1):
            break
    _, lost = struct.unpack("II", tap.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    print(f"{peers} allowed, {len(elsewhere)} elsewhere, {lost} unseen")
    for line in elsewhere[:10]:
        print(" ", line)


main()
