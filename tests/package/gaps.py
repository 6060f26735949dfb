#!/usr/bin/env python3
"""How long streams of RTP stand still. Enters: seconds, and the first and last port that they are sent from; leaves: one line,
how many streams there were on the loopback interface, and of the longest pause between two packets of each the 95th of a
hundred and the longest, in seconds. Only the standard library; root."""

import math
import socket
import struct
import sys
import time

LOOPBACK, IPV4, OUTGOING, UDP = "lo", 0x0800, 4, 17
# RFC 5761 section 4: payload types 64 to 95 are RTCP.
RTCP = range(64, 96)


def main():
    seconds, first, last = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    line = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(IPV4))
    line.bind((LOOPBACK, IPV4))
    line.settimeout(0.1)
    seen, longest, end = {}, {}, time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            packet, source = line.recvfrom(2048)
        except TimeoutError:
            continue
        header = (packet[0] & 15) * 4
        # Each packet passes here twice, on its way out and in.
        if source[2] == OUTGOING or packet[9] != UDP or len(packet) < header + 20:
            continue
        sender, receiver = struct.unpack_from(">HH", packet, header)
        if not first <= sender <= last or packet[header + 8] >> 6 != 2 or packet[header + 9] & 0x7F in RTCP:
            continue
        now, stream = time.monotonic(), (sender, receiver)
        longest[stream] = max(longest.get(stream, 0), now - seen.get(stream, now))
        seen[stream] = now
    pauses = sorted(longest.values()) or [0]
    p95 = pauses[math.ceil(0.95 * len(pauses)) - 1]
    print(f"{len(longest)} {p95:.3f} {pauses[-1]:.3f}")


main()
